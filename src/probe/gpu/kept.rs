//! What a GPU's process keeps from one step to the next: making a context, loading libraries and asking the driver take longer than
//! most measurements.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::probe::gpu::Session;
use crate::sys::cublaslt::{Lt, LtError};
use crate::sys::cuda::{Cuda, CudaError};

/// Everything is made when it is first asked for. What failed is not kept: who asks again tries again.
#[derive(Default)]
pub(super) struct Kept {
    cuda: RefCell<Option<Rc<Cuda>>>,
    sessions: RefCell<BTreeMap<usize, Rc<Session>>>,
    lt: RefCell<Option<Rc<Lt>>>,
}

impl Kept {
    pub fn of(child: &mut Child) -> Rc<Self> {
        child.kept(Kept::default)
    }

    /// The GPU that CUDA counts as `index`, current on this thread.
    pub fn session(&self, index: usize) -> Result<Rc<Session>, CudaError> {
        if let Some(session) = self.sessions.borrow().get(&index) {
            session.gpu.make_current()?;
            return Ok(session.clone());
        }
        let begin = Instant::now();
        let cuda = self.cuda()?;
        let loaded = begin.elapsed();
        let mut session = Session::open(&cuda, index)?;
        let ms = |d: Duration| format!("{:.0} ms", d.as_secs_f64() * 1e3);
        let made = begin.elapsed() - loaded;
        let path = &cuda.found.path;
        session.notes.push(format!("driver loaded in {} ({path}), context and kernels in {}", ms(loaded), ms(made)));
        let session = Rc::new(session);
        self.sessions.borrow_mut().insert(index, session.clone());
        Ok(session)
    }

    fn cuda(&self) -> Result<Rc<Cuda>, CudaError> {
        if let Some(cuda) = &*self.cuda.borrow() {
            return Ok(cuda.clone());
        }
        let cuda = Cuda::load()?;
        *self.cuda.borrow_mut() = Some(cuda.clone());
        Ok(cuda)
    }

    /// For the GPU of this process, which must be current.
    pub fn lt(&self, session: &Session) -> Result<Rc<Lt>, LtError> {
        if let Some(lt) = &*self.lt.borrow() {
            return Ok(lt.clone());
        }
        let lt = Rc::new(Lt::load(session.gpu.driver().version)?);
        *self.lt.borrow_mut() = Some(lt.clone());
        Ok(lt)
    }
}
