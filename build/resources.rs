//! What ptxas said about each kernel, and the gate that refuses what must not ship.

use super::Failure;

/// First line of the resource table.
pub const HEADER: &str =
    "image\tkernel\tarch\tthreads\tregisters\tshared\tbarriers\tstack\tspill stores\tspill loads\n";

/// One kernel on one architecture. Sizes are bytes, registers are 32-bit and per thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    image: String,
    symbol: String,
    arch: String,
    /// The block size of `__launch_bounds__`, 0 if the kernel has none.
    threads: u32,
    registers: u32,
    /// Static shared memory; what a launch adds is not known here.
    shared: u32,
    barriers: u32,
    stack: u32,
    spill_stores: u32,
    spill_loads: u32,
}

/// The resource table, one line per kernel and architecture.
pub fn table(kernels: &[Kernel]) -> String {
    let mut text = HEADER.to_string();
    for k in kernels {
        let numbers = [k.threads, k.registers, k.shared, k.barriers, k.stack, k.spill_stores, k.spill_loads];
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        text += &format!("{}\t{}\t{}\t{}\n", k.image, k.symbol, k.arch, numbers.join("\t"));
    }
    text
}

/// Whether a line of nvcc's output is part of the usage report rather than a message.
pub fn is_usage(line: &str) -> bool {
    let report = ["bytes gmem", "Compiling entry function", "Function properties for", "Used ", "Compile time"];
    line.contains(" bytes spill ")
        || (line.starts_with("ptxas info") && !line.contains("(C") && report.iter().any(|part| line.contains(part)))
}

/// What PTX says of its kernels' blocks, as lines that are added to the usage report.
pub fn block_sizes(ptx: &str) -> String {
    let mut lines = String::new();
    for entry in ptx.split(".entry ").skip(1) {
        let symbol = entry.split('(').next().unwrap_or_default().trim();
        // `.maxntid x, y, z` or `.reqntid` stands between the parameters and the body.
        let directives = entry.split('{').next().unwrap_or_default();
        let sizes = directives.split(".maxntid").nth(1).or_else(|| directives.split(".reqntid").nth(1));
        let sizes = sizes.and_then(|rest| rest.lines().next()).unwrap_or("0");
        let threads: u32 = sizes.split(',').map(|size| size.trim().parse().unwrap_or(1)).product();
        lines += &format!("threads of {symbol}: {threads}\n");
    }
    lines
}

/// Reads the usage report of one image.
pub fn kernels(image: &str, log: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut quoted = rest.split('\'');
            let symbol = quoted.next().unwrap_or_default().to_string();
            let arch = quoted.nth(1).unwrap_or_default().to_string();
            let of_this = format!("threads of {symbol}: ");
            let threads = log.lines().find_map(|line| line.strip_prefix(&*of_this)?.parse().ok()).unwrap_or(0);
            let image = image.to_string();
            kernels.push(Kernel {
                image,
                symbol,
                arch,
                threads,
                registers: 0,
                shared: 0,
                barriers: 0,
                stack: 0,
                spill_stores: 0,
                spill_loads: 0,
            });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if line.contains("bytes spill stores") {
            kernel.stack = before(line, " bytes stack frame");
            kernel.spill_stores = before(line, " bytes spill stores");
            kernel.spill_loads = before(line, " bytes spill loads");
        } else if line.contains(": Used ") {
            kernel.registers = before(line, " registers");
            kernel.barriers = before(line, " barriers");
            kernel.shared = before(line, " bytes smem");
        }
    }
    kernels.sort_by(|a, b| (&a.symbol, &a.arch).cmp(&(&b.symbol, &b.arch)));
    kernels
}

/// The number right before `unit`, 0 where the report leaves it out.
fn before(line: &str, unit: &str) -> u32 {
    let Some((head, _)) = line.split_once(unit) else { return 0 };
    let digits = head.len() - head.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    head[head.len() - digits..].parse().unwrap_or(0)
}

/// Refuses spills that the source does not allow, permissions that nothing uses, and serialised wgmma.
///
/// A source allows a spill by a line of its own: `// may spill: SYMBOL: REASON`. `complete` says that every
/// architecture was compiled, so an unused permission is really unused.
pub fn gate(image: &str, source: &str, log: &str, kernels: &[Kernel], complete: bool) -> Result<(), Failure> {
    let mut lines = Vec::new();
    // C7508: registers stay where they are. C7509 and on: ptxas waits after every wgmma because it cannot prove that its registers
    // are free, or adds arrivals of its own.
    for line in log.lines() {
        let code = line.split("(C").nth(1).and_then(|rest| rest.get(..4)).and_then(|code| code.parse::<u32>().ok());
        if code.is_some_and(|code| (7508..=7599).contains(&code)) {
            lines.push(format!("kernels/{image}.cu: ptxas serialises wgmma: {}", line.trim()));
        }
    }

    let mut allowed = Vec::new();
    for line in source.lines() {
        let Some(permission) = line.trim_start().strip_prefix("// may spill:") else { continue };
        match permission.split_once(':') {
            Some((symbol, reason)) if !reason.trim().is_empty() => allowed.push(symbol.trim()),
            _ => lines
                .push(format!("kernels/{image}.cu: \"// may spill: SYMBOL: REASON\" lacks its reason:{permission}")),
        }
    }
    let spills = |kernel: &&Kernel| kernel.spill_stores + kernel.spill_loads > 0;
    for kernel in kernels.iter().filter(spills).filter(|kernel| !allowed.contains(&kernel.symbol.as_str())) {
        lines.push(format!(
            "kernels/{image}.cu: {} spills on {}: {} bytes stored and {} loaded at {} registers. Fix: keep fewer values \
             alive or use smaller blocks; if it must spill, add `// may spill: {}: REASON` to the file.",
            kernel.symbol,
            kernel.arch,
            kernel.spill_stores,
            kernel.spill_loads,
            kernel.registers,
            kernel.symbol
        ));
    }
    for symbol in allowed.iter().filter(|_| complete) {
        if !kernels.iter().filter(spills).any(|kernel| kernel.symbol == *symbol) {
            lines.push(format!("kernels/{image}.cu: {symbol} may spill, but does not. Fix: remove the permission."));
        }
    }
    if lines.is_empty() { Ok(()) } else { Err(lines) }
}
