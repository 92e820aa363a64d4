//! Questions about the driver itself: the words of an error, the address of an entry.

use super::call::{Call, In, Out, entry};
use super::code::{Code, Result};
use std::ffi::{CStr, CString, c_char, c_void};

fn answer_text(call: &Call, out: &Out<*const c_char>, text: Option<&'static CStr>) -> Result {
    match text {
        Some(text) => out.set(call, text.as_ptr()),
        None => {
            out.set_if_wanted(std::ptr::null());
            Err(call.invalid("the number is no error code"))
        }
    }
}

/// The address of an exported symbol of this library.
fn symbol(name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: all zero is a valid Dl_info, for dladdr to fill.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own: unsafe extern "C" fn(u32) -> u32 = super::device::cuInit;
    // SAFETY: `info` is valid for writing, and any address may be asked about.
    if unsafe { libc::dladdr(own as *const c_void, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr answered a NUL-terminated path; RTLD_NOLOAD only finds what is loaded.
    let library = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the handle is live and the name NUL-terminated.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: gives back the reference taken above; the library stays loaded, this code is in it.
    unsafe { libc::dlclose(library) };
    (!address.is_null()).then_some(address)
}

/// Entries that have been revised are exported under their newest name; `version` is the release that the caller knows.
fn find_entry(name: &str, version: i32) -> Option<*mut c_void> {
    // The one entry whose newest form has a name of its own.
    if name == "cuGraphInstantiate" && version >= 12_000 {
        return symbol("cuGraphInstantiateWithFlags");
    }
    ["_v4", "_v3", "_v2", ""].iter().find_map(|version| symbol(&format!("{name}{version}")))
}

entry! {
    fn cuGetErrorName(call, code: u32, out: Out<*const c_char>) {
        answer_text(call, &out, Code(code).name())
    }

    fn cuGetErrorString(call, code: u32, out: Out<*const c_char>) {
        answer_text(call, &out, Code(code).text())
    }

    fn cuGetProcAddress_v2(
        call, name: In<c_char>, out: Out<*mut c_void>, version: i32, flags: u64, status: Out<u32>
    ) {
        const FOUND: u32 = 0;
        const NOT_FOUND: u32 = 1;
        let _ = flags;
        let name = name.text(call)?;
        match find_entry(&name, version) {
            Some(address) => {
                status.set_if_wanted(FOUND);
                out.set(call, address)
            }
            None => {
                status.set_if_wanted(NOT_FOUND);
                out.set_if_wanted(std::ptr::null_mut());
                Err(call.refuse(Code::NOT_FOUND, &format!("{name} is not exported")))
            }
        }
    }

    /// The tables are undocumented; the CUDA runtime library and everything built on it stops here.
    fn cuGetExportTable(call, out: Out<*const c_void>, id: In<[u8; 16]>) {
        let _ = id;
        out.set_if_wanted(std::ptr::null());
        let why = "undocumented driver tables do not exist here, so programs of the CUDA runtime library cannot run";
        Err(call.unsupported(Code::NOT_FOUND, why))
    }
}
