//! The instances that serve: few, warm, each shared by many requests.
//!
//! An instance does one thing at a time and never waits idly, so one for each lane is enough until it is full. Requests
//! go to the instance of their lane that has the least to do; another one is started when all are full.
//!
//! `wasmtime-wasi-http` has a handler that does this too. It starts an instance whenever none is idle at that moment,
//! which under load means one per request; here requests wait a moment instead.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use wasmtime::AsContextMut;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy, Request, Response};
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;

use crate::component::INSTANCES;
use crate::console;
use crate::instance::{Factory, Instance};
use crate::lane;
use crate::metrics;
use crate::presence::Presence;

/// Requests that an instance serves before a fresh one takes its place.
const REQUESTS_PER_INSTANCE: usize = 10_000;
/// Requests in one instance at the same time, from their arrival until the work after their response is done.
const CONCURRENT_PER_INSTANCE: usize = 64;
/// Bytes of request bodies in one instance, so that it does not run out of memory.
const BODY_BYTES_PER_INSTANCE: u64 = 48 * 1024 * 1024;
/// An instance whose memory grew beyond this makes place for a fresh one: memory of WebAssembly never shrinks.
const RETIRE_ABOVE: usize = 64 * 1024 * 1024;
/// An instance without requests for this long goes, unless it is the last.
const IDLE: Duration = Duration::from_secs(30);
/// Requests in the whole process at the same time; more wait before they are read.
pub(crate) const IN_FLIGHT: usize = 4096;
/// Bytes of request bodies in the whole process; more wait before they are read.
const BODY_BYTES: u64 = 1024 * 1024 * 1024;
/// In how large steps [`BODY_BYTES`] is given out.
const BODY_UNIT: u64 = 64 * 1024;

/// The part of the process's means that a request holds until everything about it is done.
pub(crate) struct Exchange {
    /// Whether its client is there.
    pub(crate) presence: Arc<Presence>,
    load: Mutex<Option<Arc<Load>>>,
    body_bytes: u64,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Exchange {
    /// Whether the instance that serves it broke down.
    pub(crate) fn broke_down(&self) -> bool {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.as_ref().is_some_and(|load| load.broken.load(Ordering::Acquire))
    }

    /// Counts it among the requests of the instance with `load`, and no longer among those of another one.
    fn attach(&self, load: Option<Arc<Load>>) {
        if let Some(load) = &load {
            load.active.fetch_add(1, Ordering::AcqRel);
            load.body_bytes.fetch_add(self.body_bytes, Ordering::AcqRel);
        }
        let before = std::mem::replace(&mut *self.load.lock().unwrap_or_else(PoisonError::into_inner), load);
        if let Some(before) = before {
            before.active.fetch_sub(1, Ordering::AcqRel);
            before.body_bytes.fetch_sub(self.body_bytes, Ordering::AcqRel);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.attach(None);
        drop(self.permits.take());
    }
}

/// What an instance has to do.
#[derive(Default)]
struct Load {
    active: AtomicUsize,
    body_bytes: AtomicU64,
    served: AtomicUsize,
    /// Bytes of its memory.
    memory: Arc<AtomicUsize>,
    broken: AtomicBool,
}

impl Load {
    fn is_used_up(&self) -> bool {
        self.served.load(Ordering::Relaxed) >= REQUESTS_PER_INSTANCE
            || self.memory.load(Ordering::Relaxed) > RETIRE_ABOVE
    }

    fn has_room(&self, body_bytes: u64) -> bool {
        let held = self.body_bytes.load(Ordering::Acquire);
        self.active.load(Ordering::Acquire) < CONCURRENT_PER_INSTANCE
            // One body always fits, however large it says it is: the component refuses it before it reads.
            && (held == 0 || held.saturating_add(body_bytes) <= BODY_BYTES_PER_INSTANCE)
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The component refused it as malformed.
    Refused(ErrorCode),
    /// The instance broke down; the log says why.
    BrokeDown,
    /// No instance could be made.
    Unavailable,
}

struct Job {
    exchange: Arc<Exchange>,
    request: Request,
    answer: oneshot::Sender<Result<Response, NoAnswer>>,
}

struct Worker {
    load: Arc<Load>,
    jobs: mpsc::UnboundedSender<Job>,
    idle_since: Mutex<Option<tokio::time::Instant>>,
}

/// All instances.
pub(crate) struct Pool {
    factory: Factory,
    /// By lane: a request is served where its connection lives.
    workers: Vec<Mutex<Vec<Arc<Worker>>>>,
    /// Whether another pool has taken over.
    is_retired: AtomicBool,
    /// Instances with something to do, including work after a response.
    busy: AtomicUsize,
    rest: Notify,
    requests: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Pool {
    /// A pool without instances.
    pub(crate) fn new(factory: Factory) -> Arc<Self> {
        let pool = Arc::new(Self {
            factory,
            workers: (0..lane::count()).map(|_| Mutex::default()).collect(),
            is_retired: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            rest: Notify::new(),
            requests: Arc::new(Semaphore::new(IN_FLIGHT)),
            bodies: Arc::new(Semaphore::new(usize::try_from(BODY_BYTES / BODY_UNIT).unwrap_or(usize::MAX))),
        });
        let swept = Arc::downgrade(&pool);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(IDLE / 6);
            loop {
                ticks.tick().await;
                let Some(pool) = swept.upgrade() else { return };
                pool.sweep();
            }
        });
        pool
    }

    /// What makes the instances.
    pub(crate) fn factory(&self) -> &Factory {
        &self.factory
    }

    /// Requests that are not completely done.
    pub(crate) fn in_flight(&self) -> usize {
        IN_FLIGHT - self.requests.available_permits()
    }

    /// Waits until there is room for a request whose body has `body_bytes` bytes.
    pub(crate) async fn admit(&self, body_bytes: u64) -> Arc<Exchange> {
        // Small bodies, and requests without one, never wait for large ones that may not come.
        let units = if body_bytes <= BODY_UNIT { 0 } else { body_bytes.min(BODY_BYTES / 4).div_ceil(BODY_UNIT) };
        let units = u32::try_from(units).expect("a quarter of the budget is a small number of units");
        let never_closed = "the semaphores are never closed";
        let request = Arc::clone(&self.requests).acquire_owned().await.expect(never_closed);
        let body = Arc::clone(&self.bodies).acquire_many_owned(units).await.expect(never_closed);
        Arc::new(Exchange {
            presence: Arc::default(),
            load: Mutex::default(),
            body_bytes,
            permits: Some((request, body)),
        })
    }

    /// Has an instance answer `request`. The instance goes on when the caller does not wait for the answer.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        exchange: Arc<Exchange>,
        request: Request,
    ) -> Result<Response, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.dispatch(Job { exchange, request, answer });
        answered.await.unwrap_or(Err(NoAnswer::BrokeDown))
    }

    fn dispatch(self: &Arc<Self>, mut job: Job) {
        let mut workers = self.workers[lane::current()].lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| !worker.load.is_used_up() && !worker.jobs.is_closed());
        loop {
            let body_bytes = job.exchange.body_bytes;
            let idlest = workers
                .iter()
                .filter(|worker| worker.load.has_room(body_bytes))
                .min_by_key(|worker| worker.load.active.load(Ordering::Acquire));
            // A lane is one thread: a second instance would only help when the first is full.
            let start = idlest.is_none() && workers.len() < INSTANCES as usize / lane::count();
            let worker = match idlest {
                Some(worker) if !start => Arc::clone(worker),
                _ if start => self.start(&mut workers),
                // Every instance is full, and there can be no more: the first one takes one too many.
                _ => Arc::clone(workers.first().expect("there are instances, or one would be started")),
            };
            let load = &worker.load;
            job.exchange.attach(Some(Arc::clone(load)));
            let before = load.served.fetch_add(1, Ordering::Relaxed);
            if let Some(metrics) = metrics::wanted() {
                metrics.dispatched(before == 0);
            }
            match worker.jobs.send(job) {
                Ok(()) => return,
                Err(returned) => {
                    job = returned.0;
                    workers.retain(|other| !Arc::ptr_eq(other, &worker));
                }
            }
        }
    }

    fn start(self: &Arc<Self>, workers: &mut Vec<Arc<Worker>>) -> Arc<Worker> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker { load: Arc::default(), jobs, idle_since: Mutex::default() });
        // In a retired pool, an instance is for the request that needs it, and ends with it.
        if !self.is_retired.load(Ordering::Acquire) {
            workers.push(Arc::clone(&worker));
        }
        tokio::spawn(Arc::clone(self).work(Arc::clone(&worker.load), waiting));
        worker
    }

    /// Has every instance end as soon as it has answered what it was given. Requests that still come are answered.
    pub(crate) fn retire(&self) {
        // An instance that is being added sees this under the lock of its lane, or is cleared below.
        self.is_retired.store(true, Ordering::Release);
        for workers in &self.workers {
            workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Lets go of instances that had nothing to do for a while.
    fn sweep(&self) {
        let now = tokio::time::Instant::now();
        for workers in &self.workers {
            Self::sweep_lane(&mut workers.lock().unwrap_or_else(PoisonError::into_inner), now);
        }
    }

    fn sweep_lane(workers: &mut Vec<Arc<Worker>>, now: tokio::time::Instant) {
        let mut left = workers.len();
        workers.retain(|worker| {
            let mut idle_since = worker.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            if worker.load.active.load(Ordering::Acquire) > 0 {
                *idle_since = None;
                return true;
            }
            let since = *idle_since.get_or_insert(now);
            let goes = left > 1 && now.duration_since(since) >= IDLE;
            left -= usize::from(goes);
            !goes
        });
    }

    /// The life of one instance: from its making until nobody sends it requests and all its work is done.
    async fn work(self: Arc<Self>, load: Arc<Load>, mut waiting: mpsc::UnboundedReceiver<Job>) {
        let (mut store, proxy) = match self.factory.make(Arc::clone(&load.memory)).await {
            Ok(made) => made,
            Err(error) => {
                console::error(&format!("no instance of the component could be made: {error:#}"));
                waiting.close();
                while let Ok(job) = waiting.try_recv() {
                    let _ = job.answer.send(Err(NoAnswer::Unavailable));
                }
                return;
            }
        };
        let _counted = Counted::begin();
        let busy = Busy { pool: &self, counted: AtomicBool::new(false) };
        let served = store.run_concurrent(async |accessor| serve(accessor, &proxy, &mut waiting, &busy).await).await;
        if let Err(error) = served.and_then(|served| served) {
            // Before the store goes and takes all bodies with it: they must not seem to have ended well.
            load.broken.store(true, Ordering::Release);
            console::error(&format!("an instance of the component broke down: {error:#}"));
        }
        waiting.close();
        drop(store);
        drop(busy);
        // What it had not begun is as good as new.
        while let Ok(job) = waiting.try_recv() {
            self.dispatch(job);
        }
    }

    /// Waits until no instance has anything to do, not even after a response.
    pub(crate) async fn at_rest(&self) {
        loop {
            let mut rested = pin!(self.rest.notified());
            rested.as_mut().enable();
            if self.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            rested.await;
        }
    }
}

/// An instance, among those that there are.
struct Counted;

impl Counted {
    fn begin() -> Option<Self> {
        let metrics = metrics::wanted()?;
        metrics.instance_started();
        Some(Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(metrics) = metrics::wanted() {
            metrics.instance_ended();
        }
    }
}

/// Whether one instance has something to do.
struct Busy<'a> {
    pool: &'a Pool,
    counted: AtomicBool,
}

impl Busy<'_> {
    fn set(&self, busy: bool) {
        if self.counted.swap(busy, Ordering::AcqRel) == busy {
            return;
        }
        if busy {
            self.pool.busy.fetch_add(1, Ordering::AcqRel);
        } else if self.pool.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.pool.rest.notify_waiters();
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Feeds one instance with requests until none can come any more and everything that it began is done.
async fn serve(
    accessor: &Accessor<Instance>,
    proxy: &Proxy,
    waiting: &mut mpsc::UnboundedReceiver<Job>,
    busy: &Busy<'_>,
) -> wasmtime::Result<()> {
    let Proxy::P3(service) = proxy;
    let handle = *service.wasi_http_handler().func_handle().func();
    let mut calls = FuturesUnordered::new();
    let mut closed = false;
    std::future::poll_fn(|context| {
        loop {
            if let Poll::Ready(Some(ended)) = calls.poll_next_unpin(context) {
                match ended {
                    Ok(()) => continue,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            let accepts = accessor.poll_ready_for_concurrent_call(handle, context).is_ready();
            if accepts && !closed {
                match waiting.poll_recv(context) {
                    Poll::Ready(Some(job)) => {
                        busy.set(true);
                        calls.push(call(accessor, proxy, job));
                        continue;
                    }
                    Poll::Ready(None) => closed = true,
                    Poll::Pending => {}
                }
            }
            if !calls.is_empty() || accessor.poll_no_interesting_tasks(context).is_pending() {
                return Poll::Pending;
            }
            busy.set(false);
            return if closed { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
    })
    .await
}

/// One request, until its response begins. An error means that the instance is beyond use.
async fn call(accessor: &Accessor<Instance>, proxy: &Proxy, job: Job) -> wasmtime::Result<()> {
    let Job { exchange, request, answer } = job;
    let (sender, mut answered) = oneshot::channel();
    let prepared =
        accessor.with(|mut access| Prepared::new(access.as_context_mut(), proxy, request, Instance::http, sender))?;
    prepared.run(accessor, std::future::pending()).await?;
    // The exchange lives on in the bodies of request and response.
    drop(exchange);
    match answered.try_recv() {
        Ok(Some(Ok(response))) => {
            let _ = answer.send(Ok(response));
            Ok(())
        }
        Ok(Some(Err(error))) => match error.downcast::<ErrorCode>() {
            Ok(refusal) => {
                let _ = answer.send(Err(NoAnswer::Refused(refusal)));
                Ok(())
            }
            Err(error) => {
                let _ = answer.send(Err(NoAnswer::BrokeDown));
                Err(error)
            }
        },
        Ok(None) | Err(_) => {
            let _ = answer.send(Err(NoAnswer::BrokeDown));
            Ok(())
        }
    }
}
