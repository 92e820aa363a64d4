//! Control of the software GPU from tests: settings, findings, counters.
