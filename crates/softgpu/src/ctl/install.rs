//! Putting the software GPU in the place of the driver, for this process only.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Names under which programs look for the driver.
const DRIVER_NAMES: [&CStr; 2] = [c"libcuda.so", c"libcuda.so.1"];
/// The file of this crate's shared library, and what its name begins with when cargo adds a hash.
const FILE: &str = "libsoftgpu.so";
const HASHED: &str = "libsoftgpu-";
/// The folder that cargo gave the build script: `target/<profile>/build/softgpu-<hash>/out`.
const BUILD_OUT: &str = env!("OUT_DIR");

/// Why the software GPU is not what the process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// Another driver is loaded already.
    DriverLoaded {
        /// Its name.
        name: String,
    },
    /// The library was not found.
    NotFound {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The library was found but could not be loaded.
    Load {
        /// Its path.
        path: PathBuf,
        /// What the loader says.
        why: String,
    },
    /// The library is in place, yet `libcuda.so` still names something else.
    NotChosen {
        /// Its path.
        path: PathBuf,
    },
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::DriverLoaded { name } => {
                write!(f, "{name} is loaded already: call softgpu::install() before the first driver call")
            }
            InstallError::NotFound { searched } => {
                write!(f, "{FILE} was not found; looked in")?;
                searched.iter().try_for_each(|folder| write!(f, " {}", folder.display()))
            }
            InstallError::Load { path, why } => write!(f, "{} cannot be loaded: {why}", path.display()),
            InstallError::NotChosen { path } => {
                write!(f, "{} is loaded, but the loader does not answer for libcuda.so with it", path.display())
            }
        }
    }
}

impl std::error::Error for InstallError {}

/// A library that is loaded. The reference is never given back.
#[derive(Clone, Copy)]
pub(super) struct Library(*mut c_void);

// SAFETY: the loader's handles may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The library of that name if it is loaded.
    pub(super) fn loaded(name: &CStr) -> Option<Library> {
        // SAFETY: the name is NUL-terminated; RTLD_NOLOAD loads nothing and so runs no code.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then_some(Library(handle))
    }

    fn open(path: &Path) -> Result<Library, InstallError> {
        let failed = |why: String| InstallError::Load { path: path.to_path_buf(), why };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
        // SAFETY: the name is NUL-terminated; the library is this crate's, whose initialisation has no preconditions.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return Ok(Library(handle));
        }
        // SAFETY: dlerror answers null or a NUL-terminated text that lives until this thread's next call.
        let why = unsafe {
            let text = libc::dlerror();
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Err(failed(why))
    }

    /// The address of a symbol of this library.
    pub(super) fn symbol(self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is live, it is never closed; the name is NUL-terminated.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// Whether it is a software GPU.
    pub(super) fn is_softgpu(self) -> bool {
        self.symbol(c"softgpu_abi").is_some()
    }
}

/// The driver of this process, under either name.
pub(super) fn driver() -> Option<(&'static CStr, Library)> {
    DRIVER_NAMES.into_iter().find_map(|name| Library::loaded(name).map(|library| (name, library)))
}

/// Makes this process use the software GPU: every later `dlopen("libcuda.so")` answers with it.
///
/// To be called before the first driver call; calling it again does no harm. It never replaces a driver that is loaded
/// already, and it changes nothing for programs that do not call it.
///
/// ```
/// softgpu::install()?;
/// let gpu = softgpu::ctl::connect()?;
/// gpu.seed(7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn install() -> Result<(), InstallError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match driver() {
        Some((_, library)) if library.is_softgpu() => return Ok(()),
        Some((name, _)) => return Err(InstallError::DriverLoaded { name: name.to_string_lossy().into_owned() }),
        None => {}
    }
    let folders = folders();
    let Some(path) = folders.iter().find_map(|folder| find(folder)) else {
        return Err(InstallError::NotFound { searched: folders });
    };
    Library::open(&path)?;
    match driver() {
        Some((_, library)) if library.is_softgpu() => Ok(()),
        _ => Err(InstallError::NotChosen { path }),
    }
}

/// Where the library may be: test programs lie in `deps`, examples beside it, programs of doc-tests anywhere.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(beside.to_path_buf());
        folders.push(beside.join("deps"));
        if let Some(above) = beside.parent() {
            folders.push(above.to_path_buf());
            folders.push(above.join("deps"));
        }
    }
    if let Some(profile) = Path::new(BUILD_OUT).ancestors().nth(3) {
        folders.push(profile.join("deps"));
    }
    folders
}

/// The library in a folder: under its plain name, else the newest with a hash.
fn find(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(FILE);
    if plain.is_file() {
        return Some(plain);
    }
    let hashed = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(HASHED) && name.ends_with(".so"))
    });
    hashed.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok()).map(|entry| entry.path())
}
