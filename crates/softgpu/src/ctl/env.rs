//! Switches from the environment: what every host thread begins with.

use super::types::Streams;
use crate::driver::inject::Plan;
use crate::launch::{Checks, Settings};
use std::sync::OnceLock;

/// What the environment asks for.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How launches run.
    pub settings: Settings,
    /// When queued work runs.
    pub streams: Streams,
    /// Driver calls that fail, counted in each host thread.
    pub plan: Plan,
    /// Memory of each device in bytes.
    pub memory: Option<u64>,
    /// Whether unsupported statements fail the load of a module.
    pub strict_load: bool,
    /// Whether the counters of each launch are printed.
    pub counters: bool,
    /// Whether driver calls are printed.
    pub trace_calls: bool,
    /// Whether launches are printed.
    pub trace_kernels: bool,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            settings: Settings::default(),
            streams: Streams::Sync,
            plan: Plan::default(),
            memory: None,
            strict_load: false,
            counters: false,
            trace_calls: false,
            trace_kernels: false,
        }
    }
}

/// The environment as it was at the first call.
pub fn defaults() -> &'static Defaults {
    static DEFAULTS: OnceLock<Defaults> = OnceLock::new();
    DEFAULTS.get_or_init(|| {
        let mut defaults = Defaults::default();
        for (name, value) in std::env::vars() {
            if let Some(switch) = name.strip_prefix("SOFTGPU_")
                && let Err(why) = apply(&mut defaults, switch, &value)
            {
                eprintln!("softgpu: {name}={value}: {why}");
            }
        }
        defaults
    })
}

/// Applies one switch. What is not understood is said, not skipped.
fn apply(defaults: &mut Defaults, switch: &str, value: &str) -> Result<(), String> {
    let settings = &mut defaults.settings;
    match switch {
        "SEED" => settings.seed = value.parse().map_err(|_| "a seed is a whole number".to_string())?,
        "CHECKS" => {
            settings.checks = match value {
                "all" => Checks::ALL,
                "none" => Checks::NONE,
                list => {
                    let mut checks = Checks::NONE;
                    for name in list.split(',') {
                        match name.trim() {
                            "init" => checks.init = true,
                            "race" => checks.race = true,
                            other => return Err(format!("`{other}` is not one of all, none, init, race")),
                        }
                    }
                    checks
                }
            }
        }
        "INIT" => match value {
            "taint" => settings.strict_init = false,
            "strict" => settings.strict_init = true,
            _ => return Err("taint or strict".to_string()),
        },
        "FINDINGS" => match value {
            "fail" => settings.findings_fail = true,
            "report" => settings.findings_fail = false,
            _ => return Err("fail or report".to_string()),
        },
        "STEPS" => settings.step_limit = value.parse().map_err(|_| "a number of warp instructions".to_string())?,
        "STREAMS" => defaults.streams = Streams::parse(value).ok_or("sync, late or seeded")?,
        "MEM" => defaults.memory = Some(bytes(value).ok_or("a size such as 512M or 8G")?),
        "FAIL" => defaults.plan.parse(value)?,
        "STRICT_LOAD" => defaults.strict_load = flag(value)?,
        "COUNTERS" => defaults.counters = flag(value)?,
        "TRACE" => {
            for what in value.split(',') {
                match what.trim() {
                    "api" => defaults.trace_calls = true,
                    "kernel" => defaults.trace_kernels = true,
                    other => return Err(format!("`{other}` is not one of api, kernel")),
                }
            }
        }
        // Read where the devices are made.
        "DEVICE" => {}
        _ => return Err("no such switch".to_string()),
    }
    Ok(())
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("0 or 1".to_string()),
    }
}

/// A number of bytes with an optional K, M or G.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_applied() {
        let mut defaults = Defaults::default();
        let values = [
            ("SEED", "7"),
            ("STREAMS", "late"),
            ("MEM", "2G"),
            ("FINDINGS", "report"),
            ("CHECKS", "init"),
            ("INIT", "strict"),
            ("TRACE", "api,kernel"),
        ];
        for (switch, value) in values {
            apply(&mut defaults, switch, value).unwrap();
        }
        assert_eq!((defaults.settings.seed, defaults.streams, defaults.memory), (7, Streams::Late, Some(2 << 30)));
        assert!(
            defaults.settings.strict_init
                && !defaults.settings.findings_fail
                && defaults.trace_calls
                && defaults.trace_kernels
        );
        assert_eq!(defaults.settings.checks, Checks { init: true, race: false });
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let mut defaults = Defaults::default();
        for (switch, value) in
            [("SEEED", "7"), ("STREAMS", "early"), ("MEM", "much"), ("FAIL", "cuInit"), ("CHECKS", "rice")]
        {
            assert!(apply(&mut defaults, switch, value).is_err(), "{switch}={value}");
        }
    }
}
