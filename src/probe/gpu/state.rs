//! What a GPU's process keeps from one step to the next: making a context, loading libraries and asking the driver take longer than
//! most measurements.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;

use crate::cluster::Child;
use crate::probe::affinity;
use crate::probe::gpu::Session;
use crate::sys::cublaslt::{Lt, LtError};
use crate::sys::cuda::{Cuda, CudaError};
use crate::topology::SysRoot;

/// Everything is made when it is first asked for. What failed is not kept: who asks again tries again.
pub(in crate::probe) struct GpuState {
    /// Where this process might run before a GPU moved it to its own NUMA node.
    allowed: Option<CpuSet>,
    cuda: RefCell<Option<Rc<Cuda>>>,
    sessions: RefCell<BTreeMap<usize, Rc<Session>>>,
    lt: RefCell<Option<Rc<Lt>>>,
}

impl GpuState {
    pub fn of(child: &mut Child) -> Rc<Self> {
        child.kept(|| GpuState {
            allowed: affinity::allowed(),
            cuda: RefCell::default(),
            sessions: RefCell::default(),
            lt: RefCell::default(),
        })
    }

    /// The GPU at a place on the bus, current on this thread; `index` is where CUDA should count it.
    pub fn session_at(&self, index: usize, pci: &str) -> Result<Rc<Session>, CudaError> {
        if pci.is_empty() {
            // The driver did not tell where it is.
            return self.session(index);
        }
        let cuda = self.cuda()?;
        let count = cuda.count()?;
        let likely = (index < count).then_some(index);
        let found = likely.into_iter().chain(0..count).find(|i| cuda.pci(*i).is_ok_and(|at| at == pci));
        self.session(found.ok_or_else(|| CudaError::NoDevice { wanted: pci.to_owned(), count })?)
    }

    /// The GPU that CUDA counts as `index`, current on this thread.
    pub fn session(&self, index: usize) -> Result<Rc<Session>, CudaError> {
        if let Some(session) = self.sessions.borrow().get(&index) {
            session.gpu.make_current()?;
            self.move_near(session);
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
        session.notes.extend(self.move_near(&session));
        let session = Rc::new(session);
        self.sessions.borrow_mut().insert(index, session.clone());
        Ok(session)
    }

    /// This thread, and so the pinned memory that it makes, beside a GPU; says where that is.
    fn move_near(&self, session: &Session) -> Option<String> {
        let root = SysRoot::live();
        let numa = root.parse::<i64>(format!("/sys/bus/pci/devices/{}/numa_node", session.gpu.pci))?;
        affinity::near_within(&root, u32::try_from(numa).ok(), self.allowed.as_ref()?)
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
