//! How long a device is busy.

use super::{Device, Kind};
use crate::error::Result;
use std::time::{Duration, Instant};

impl Device {
    /// Runs `work` and measures how long the device takes for what it is asked to do meanwhile; returns when that is done.
    ///
    /// On a GPU this is the time between two events on its stream, before and after. It holds the host's own time only
    /// where the GPU had to wait for the host, so enqueue enough to keep it busy. On the host it is the time on the clock.
    ///
    /// ```
    /// use sumexp::{Device, Tensor};
    /// let device = Device::cpu();
    /// let (x, time) = device.time(|| Tensor::<f32>::zeros(&device, &[1024, 1024]))?;
    /// println!("{:?} took {time:?}", x.dims());
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; [`Error::Driver`](crate::Error::Driver).
    pub fn time<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Duration)> {
        match &self.0 {
            Kind::Cpu => {
                let start = Instant::now();
                let result = work()?;
                Ok((result, start.elapsed()))
            }
            Kind::Cuda(stream) => {
                let start = stream.record_time()?;
                let result = work()?;
                let time = stream.record_time()?.elapsed_since(&start)?;
                Ok((result, time))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn the_result_and_the_error_of_the_work_come_through() {
        let pause = Duration::from_millis(5);
        let work = || {
            std::thread::sleep(pause);
            Ok(7)
        };
        let (seven, time) = Device::cpu().time(work).unwrap();
        let error = Error::NoDriver { tried: "nothing" };
        assert_eq!(Device::cpu().time::<()>(|| Err(error.clone())), Err(error));
        assert!(seven == 7 && time >= pause);
    }
}
