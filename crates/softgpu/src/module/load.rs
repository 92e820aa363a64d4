//! A module's code: parsed once per image, device and process, each kernel lowered when it is first launched.

use super::image::{self, Capability, ImageError};
use crate::ir::{Kernel, Param, Unsupported};
use crate::mem::{Space, windows};
use crate::ptx::{self, Variable, VariableSpace};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock};

/// Why a module was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The image has nothing to run.
    Image(ImageError),
    /// The PTX cannot be read.
    Ptx(ptx::Error),
    /// Something in it is not implemented.
    Unsupported(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Image(error) => error.fmt(f),
            LoadError::Ptx(error) => error.fmt(f),
            LoadError::Unsupported(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for LoadError {}

/// What a kernel's directives say about how it may be launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// `.maxntid`.
    pub most: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required: Option<[u32; 3]>,
    /// `.maxnreg`.
    pub registers: Option<u32>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
}

/// The code of a module.
pub struct Program {
    module: ptx::Module,
    lowered: Vec<OnceLock<Result<Arc<Kernel>, Unsupported>>>,
}

/// What was loaded before, by hash of the image and the device.
type Cache = Mutex<HashMap<u64, Vec<Loaded>>>;

/// An image and what a device made of it.
#[derive(Clone)]
struct Loaded {
    image: Arc<[u8]>,
    device: Capability,
    program: Arc<Program>,
    origin: String,
}

/// Loads the PTX that a device runs, and says which entry of the image that is. With `strict`, statements that cannot be
/// executed are errors now.
pub fn load(image: &[u8], device: Capability, strict: bool) -> Result<(Arc<Program>, String), LoadError> {
    static CACHE: OnceLock<Cache> = OnceLock::new();
    let mut hasher = DefaultHasher::new();
    (image, device).hash(&mut hasher);
    let key = hasher.finish();
    let cache = || CACHE.get_or_init(Cache::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = cache().get(&key).cloned().unwrap_or_default();
    let known = known.into_iter().find(|known| known.device == device && *known.image == *image);
    let (program, origin) = match known {
        Some(known) => (known.program, known.origin),
        None => {
            let chosen = image::choose(image, device).map_err(LoadError::Image)?;
            let (program, origin) = (Arc::new(Program::parse(&chosen.ptx)?), chosen.origin);
            let loaded = Loaded { image: image.into(), device, program: program.clone(), origin: origin.clone() };
            cache().entry(key).or_default().push(loaded);
            (program, origin)
        }
    };
    if strict {
        for name in program.kernel_names() {
            program.kernel(name).map_err(|error| LoadError::Unsupported(error.to_string()))?;
        }
    }
    Ok((program, origin))
}

impl Program {
    fn parse(text: &str) -> Result<Program, LoadError> {
        let module = ptx::parse(text).map_err(LoadError::Ptx)?;
        if let Some(external) = module.variables.iter().find(|variable| variable.external) {
            let text = format!("variable `{}` is declared .extern, and no other module can define it", external.name);
            return Err(LoadError::Unsupported(text));
        }
        let lowered = module.functions.iter().map(|_| OnceLock::new()).collect();
        Ok(Program { module, lowered })
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.module.functions.iter().position(|function| function.entry && function.name == name)
    }

    fn function(&self, name: &str) -> Option<&ptx::Function> {
        self.index(name).map(|index| &self.module.functions[index])
    }

    /// Whether it has a kernel of that name.
    pub fn has_kernel(&self, name: &str) -> bool {
        self.index(name).is_some()
    }

    /// The names of its kernels.
    pub fn kernel_names(&self) -> impl Iterator<Item = &str> {
        self.module.functions.iter().filter(|function| function.entry).map(|function| function.name.as_str())
    }

    /// The executable form of a kernel, made at the first call.
    pub fn kernel(&self, name: &str) -> Result<Arc<Kernel>, Unsupported> {
        let Some(index) = self.index(name) else {
            let (place, statement) = (String::from("the module"), String::new());
            return Err(Unsupported { kernel: name.to_string(), place, statement, why: "no such kernel".to_string() });
        };
        let lower = || Kernel::lower(&self.module, name, true).map(Arc::new);
        self.lowered[index].get_or_init(lower).clone()
    }

    /// How a kernel may be launched.
    pub fn bounds(&self, name: &str) -> Bounds {
        self.function(name).map_or_else(Bounds::default, |function| Bounds {
            most: function.max_threads,
            required: function.required_threads,
            registers: function.max_registers,
            cluster: function.cluster,
        })
    }

    /// Where a kernel's parameters lie in its parameter block.
    pub fn parameters(&self, name: &str) -> Vec<Param> {
        let mut end = 0;
        let declared = self.function(name).map_or(&[][..], |function| &function.params);
        declared
            .iter()
            .map(|variable| {
                let offset = u32::next_multiple_of(end, variable.align.max(1));
                end = offset + variable.size as u32;
                Param { name: variable.name.clone(), offset, size: variable.size as u32, align: variable.align }
            })
            .collect()
    }

    /// Its `.global` and `.const` variables.
    pub fn variables(&self) -> &[Variable] {
        &self.module.variables
    }

    /// Bytes of its `.const` variables.
    pub fn constant_bytes(&self) -> u64 {
        let constant = |variable: &&Variable| variable.space == VariableSpace::Const;
        self.module.variables.iter().filter(constant).map(|variable| variable.size).sum()
    }

    /// The address of a variable or of a device function.
    fn address(&self, name: &str, globals: &[u64]) -> Option<u64> {
        let code = |f: &ptx::Function| !f.entry && f.defined && f.name == name;
        let variable = self.module.variables.iter().position(|variable| variable.name == name);
        variable.and_then(|index| globals.get(index).copied()).or_else(|| {
            let index = self.module.functions.iter().position(code)?;
            Some(windows::CODE + windows::CODE_STEP * index as u64)
        })
    }

    /// Its `.version`.
    pub fn version(&self) -> (u32, u32) {
        self.module.version
    }

    /// Writes the initial values of its variables, which lie at `globals`.
    pub fn initialise(&self, globals: &[u64], space: &Space) -> Result<(), LoadError> {
        for (base, variable) in globals.iter().zip(&self.module.variables) {
            let gone = |fault: crate::mem::MemoryFault| LoadError::Unsupported(fault.to_string());
            space.fill(*base, &[0], variable.size).map_err(gone)?;
            let mut bytes = variable.init.clone();
            for (at, name, plus, _) in &variable.addresses {
                let Some(address) = self.address(name, globals) else {
                    let text = format!("`{}` holds the address of `{name}`, which this module has not", variable.name);
                    return Err(LoadError::Unsupported(text));
                };
                let address = address.wrapping_add_signed(*plus).to_le_bytes();
                let width = (variable.ty.bytes() as usize).min(8);
                bytes[*at..*at + width].copy_from_slice(&address[..width]);
            }
            space.write(*base, &bytes).map_err(gone)?;
        }
        Ok(())
    }
}
