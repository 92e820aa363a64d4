//! What every entry of the driver API has in common: panics stay inside, injected failures come first, and pointers
//! that the caller gave are looked at in one place.

use super::code::{Code, Result};
use super::queue;
use super::state::{self, DeviceId, Guard};
use super::thread::{self, HostThread};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Declares exported entries of the driver API: `fn name(call, argument: type, ...) { body }`, where the body ends in a
/// [`Result`] and `call` names the running [`Call`].
macro_rules! entry {
    ($($(#[doc = $doc:literal])* fn $name:ident($call:ident $(, $arg:ident: $ty:ty)* $(,)?) $body:block)*) => {$(
        #[doc = concat!("The driver API entry `", stringify!($name), "`.")]
        #[doc = ""]
        $(#[doc = $doc])*
        #[doc = ""]
        #[doc = "# Safety"]
        #[doc = "Every pointer among the arguments is null or valid as the CUDA driver API demands of this entry."]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::driver::call::enter(stringify!($name), |$call| $body)
        }
    )*};
}
pub(crate) use entry;

/// One running entry.
pub struct Call {
    /// Its exported name.
    pub name: &'static str,
    /// The host thread it runs on.
    pub thread: Arc<HostThread>,
    /// The capture that it pushes work into, which its failure spoils.
    capture: Cell<Option<u64>>,
}

/// Runs the body of an entry.
pub fn enter(name: &'static str, body: impl FnOnce(&Call) -> Result) -> u32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let call = Call { name, thread: thread::current(), capture: Cell::new(None) };
        let result =
            match call.thread.enter_call(name) {
                Some(injected) => Err(injected),
                None if call.thread.is_in_host_function() => Err(call
                    .refuse(Code::NOT_PERMITTED, "a function enqueued with cuLaunchHostFunc must not call the driver")),
                None => {
                    queue::advance_at_random(&call);
                    body(&call)
                }
            };
        if let (Err(_), Some(capture)) = (result, call.capture.get()) {
            state::lock().invalidate(capture, &call.thread.last_error());
        }
        call.thread.trace(name, result);
        result
    }));
    match outcome {
        Ok(Ok(())) => Code::SUCCESS.0,
        Ok(Err(code)) => code.0,
        Err(_) => {
            // The panic hook has printed what went wrong; unwinding must not cross the C ABI.
            eprintln!("softgpu: {name}: internal error, please report it");
            Code::UNKNOWN.0
        }
    }
}

impl Call {
    /// The driver's state, once `cuInit` was called.
    pub fn state(&self) -> Result<Guard> {
        let state = state::lock();
        if state.initialised {
            return Ok(state);
        }
        drop(state);
        Err(self.refuse(Code::NOT_INITIALIZED, "cuInit has not been called"))
    }

    /// The state and the device of the current context; its sticky error if it has one.
    pub fn context(&self) -> Result<(Guard, DeviceId)> {
        let (state, device, sticky) = self.faulted_context()?;
        sticky.map_or(Ok((state, device)), Err)
    }

    /// The same for calls that release something: they do their work even after a sticky error, then return it.
    pub fn faulted_context(&self) -> Result<(Guard, DeviceId, Option<Code>)> {
        let state = self.state()?;
        let Some(device) = self.thread.current_context() else {
            drop(state);
            return Err(self.refuse(Code::INVALID_CONTEXT, "no context is current on this thread"));
        };
        if state.device(device).retained == 0 {
            drop(state);
            return Err(self.refuse(
                Code::CONTEXT_IS_DESTROYED,
                &format!("the context of device {} that is current on this thread was released", device.0),
            ));
        }
        let sticky = state.device(device).sticky;
        Ok((state, device, sticky))
    }

    /// Notes that the call is about to change a capture.
    pub fn touch(&self, capture: u64) {
        self.capture.set(Some(capture));
    }

    /// Notes why the entry fails, for whoever asks afterwards, and gives back the code.
    pub fn refuse(&self, code: Code, why: &str) -> Code {
        self.thread.set_last_error(format!("{}: {why} ({code})", self.name));
        code
    }

    /// As [`Call::refuse`], with a line on stderr: something the program does is not implemented.
    pub fn unsupported(&self, code: Code, why: &str) -> Code {
        let code = self.refuse(code, why);
        eprintln!("softgpu: {}", self.thread.last_error());
        code
    }

    /// The error for an argument that no driver accepts.
    pub fn invalid(&self, why: &str) -> Code {
        self.refuse(Code::INVALID_VALUE, why)
    }
}

/// A pointer through which an entry answers. Only the caller on the other side of the C ABI makes one.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A pointer that arrived as part of another argument, or as one for reading too.
    ///
    /// # Safety
    /// The entry's contract says that the address is null or valid for writing a T.
    pub unsafe fn at(address: usize) -> Out<T> {
        Out(address as *mut T)
    }

    /// Whether the caller wants an answer.
    pub fn is_wanted(&self) -> bool {
        !self.0.is_null()
    }

    /// Answers with one of several values. The entry's contract says that there is room for it.
    pub fn set_at(&self, call: &Call, index: usize, value: T) -> Result {
        self.check(call)?;
        Out(self.0.wrapping_add(index)).set(call, value)
    }

    /// Answers; a null pointer is an error.
    pub fn set(&self, call: &Call, value: T) -> Result {
        if self.0.is_null() {
            return Err(call.invalid("a pointer for the result is null"));
        }
        // SAFETY: not null, checked above; the entry's contract says that it is then valid for writing a T.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Answers if the caller wants to know.
    pub fn set_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, checked above; the entry's contract says that it is then valid for writing a T.
            unsafe { self.0.write(value) };
        }
    }

    /// Whether the address is a multiple.
    pub fn is_aligned(&self, to: usize) -> bool {
        self.0.addr().is_multiple_of(to)
    }

    /// An error unless there is somewhere to answer to: checked before anything is made that would otherwise leak.
    pub fn check(&self, call: &Call) -> Result {
        if self.0.is_null() { Err(call.invalid("a pointer for the result is null")) } else { Ok(()) }
    }
}

impl Out<c_char> {
    /// Writes a NUL-terminated text into a buffer of `capacity` bytes, cut to fit.
    pub fn set_text(&self, call: &Call, text: &str, capacity: i32) -> Result {
        self.check(call)?;
        let Some(room) = usize::try_from(capacity).ok().and_then(|capacity| capacity.checked_sub(1)) else {
            return Err(call.invalid(&format!("a buffer of {capacity} bytes holds no text")));
        };
        let length = text.len().min(room);
        // SAFETY: not null, checked above; the caller says that `capacity` > length bytes are there.
        unsafe {
            self.0.copy_from_nonoverlapping(text.as_ptr().cast(), length);
            self.0.add(length).write(0);
        }
        Ok(())
    }
}

/// A pointer from which an entry reads. Only the caller on the other side of the C ABI makes one.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> In<T> {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// The value; a null pointer is an error.
    pub fn get(&self, call: &Call) -> Result<T> {
        if self.0.is_null() {
            return Err(call.invalid("a pointer to an argument is null"));
        }
        // SAFETY: not null, checked above; the entry's contract says that it is then valid for reading a T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The value at an index, with the same contract for that many values.
    pub fn get_at(&self, call: &Call, index: usize) -> Result<T> {
        let first = if self.0.is_null() { self.0 } else { self.0.wrapping_add(index) };
        In(first).get(call)
    }
}

impl<T> In<T> {
    /// A pointer that arrived as part of another argument.
    ///
    /// # Safety
    /// The entry's contract says that the address is null or valid for reading a T.
    pub unsafe fn at(address: usize) -> In<T> {
        In(address as *const T)
    }

    /// The pointer itself.
    pub fn raw(&self) -> *const T {
        self.0
    }

    /// The same address as a pointer to something else, which the entry's contract says it is.
    pub fn cast<U>(&self) -> In<U> {
        In(self.0.cast())
    }
}

impl In<c_char> {
    /// A NUL-terminated text.
    pub fn text(&self, call: &Call) -> Result<String> {
        if self.0.is_null() {
            return Err(call.invalid("a name is null"));
        }
        // SAFETY: not null, checked above; the entry's contract says that it is then a NUL-terminated text.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_string).map_err(|_| call.invalid("a name is not UTF-8"))
    }
}

/// Host memory of an enqueued operation. The program promises to keep it until the operation is done.
#[derive(Clone, Copy, Debug)]
pub struct HostPointer(pub *mut c_void);

// SAFETY: the pointer is read or written only while its operation runs: once, or at each launch of its graph.
unsafe impl Send for HostPointer {}
// SAFETY: sharing it shares the number alone; see above for who follows it.
unsafe impl Sync for HostPointer {}
