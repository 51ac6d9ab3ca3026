//! The scheduler: grows the graph, runs what is ready, each key once.
//!
//! One thread (the caller's) owns the graph and asks steps what they need; work runs on rayon
//! or on the few threads of the network lane and comes back through a channel. A result is
//! looked up by key first, so an equal input stops the wave. What a step needs goes before its
//! neighbours, so that they find it there. While the cores are free, steps are asked and looked up
//! on all of them; what comes of it is taken in order. When a step fails, running work finishes
//! (others can reuse it) and nothing new starts.
//!
//! What another process is doing waits here, not on a core or a line of the network: a job that
//! waits for a part of itself may have begun another one, so two processes that each hold a key
//! and stand still for the other's would wait for ever.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyLock};
use rayon::prelude::*;

use super::{Lane, Need, Next, Results, Reuse, Scope, Step, StepError, Task};
use crate::event::{Event, Listener, Outcome, StepNumber};

/// Threads of the network lane: enough to keep both a slow registry and the cores busy.
const NETWORK_THREADS: usize = 4;

/// Steps asked side by side: fewer are not worth another thread, more would need much memory.
const WAVE: std::ops::RangeInclusive<usize> = 16..=256;

/// How often a step that another process does is tried again.
const POLL: Duration = Duration::from_millis(10);

/// One finished node, for whoever wants to know why and what.
#[derive(Debug, Clone)]
pub struct Node {
    /// The step's kind.
    pub kind: &'static str,
    /// What people call it.
    pub label: String,
    /// The key, when the step has one.
    pub key: Option<Key>,
    /// Indices of the nodes whose results led to its last move.
    pub needs: Vec<usize>,
    /// How it came about.
    pub outcome: Option<Outcome>,
    /// How long the work took.
    pub duration: Duration,
}

/// The graph of a run: nodes in order of appearance.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The nodes; the root is the first.
    pub nodes: Vec<Node>,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
}

struct State {
    step: Arc<dyn Step>,
    missing: usize,
    wanted_by: Vec<usize>,
    result: Option<Arc<Action>>,
}

struct Finished {
    node: usize,
    lane: Lane,
    result: Result<Action, StepError>,
    outcome: Outcome,
    duration: Duration,
}

struct Job {
    node: usize,
    kind: &'static str,
    label: String,
    task: Task,
    edges: Vec<Key>,
    before: Option<Action>,
    /// It was tried, and another process was at it.
    is_waiting: bool,
}

/// What comes back from the lanes.
enum Report {
    Finished(Finished),
    /// Another process does it now.
    Taken(Job),
}

/// A step's result that is wanted from the cache, which has none.
#[derive(Debug, thiserror::Error)]
#[error("its result is not in the cache")]
pub struct NotKept;

/// Runs `root` and everything it needs.
///
/// # Errors
/// The first step that failed, or that the run was cancelled.
pub fn run(
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    root: &Arc<dyn Step>,
) -> Result<(Arc<Action>, Graph), RunError> {
    run_with(cache, listener, cancel, root, false)
}

/// As [`run`], with what the cache has. Only files of the host are looked at again.
///
/// # Errors
/// [`NotKept`] for the first step that would have to be done.
pub fn recall(
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    root: &Arc<dyn Step>,
) -> Result<(Arc<Action>, Graph), RunError> {
    run_with(cache, listener, cancel, root, true)
}

fn run_with(
    cache: &Cache,
    listener: &dyn Listener,
    cancel: &AtomicBool,
    root: &Arc<dyn Step>,
    is_recall: bool,
) -> Result<(Arc<Action>, Graph), RunError> {
    let (done_sender, done) = mpsc::channel::<Report>();
    let (network_sender, network) = mpsc::channel::<Job>();
    let network = Mutex::new(network);
    // Set on failure too, so that nothing that waits in a lane starts.
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let worker = Worker {
            cache,
            listener,
            cancel,
            stop: &stop,
            is_recall,
        };
        let mut started_threads = 0;
        let mut spawn_network = || {
            if started_threads < NETWORK_THREADS {
                started_threads += 1;
                let done = done_sender.clone();
                let network = &network;
                threads.spawn(move || {
                    loop {
                        let job = network
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .recv();
                        let Ok(job) = job else { break };
                        if done.send(worker.work(job)).is_err() {
                            break;
                        }
                    }
                });
            }
        };
        let result = rayon::in_place_scope(|cpu| {
            let mut start = |job: Job| match job.task.lane {
                Lane::Network => {
                    spawn_network();
                    // The receiver lives as long as this scope.
                    let _ = network_sender.send(job);
                }
                Lane::Cpu => {
                    let done = done_sender.clone();
                    cpu.spawn(move |_| {
                        let _ = done.send(worker.work(job));
                    });
                }
            };
            Loop::new(worker).run(root, &done, &mut start)
        });
        drop(network_sender);
        result
    })
}

#[derive(Clone, Copy)]
struct Worker<'a> {
    cache: &'a Cache,
    listener: &'a dyn Listener,
    cancel: &'a AtomicBool,
    stop: &'a AtomicBool,
    /// Nothing is done that the cache would keep.
    is_recall: bool,
}

impl Worker<'_> {
    /// Does a job, unless another process does it or did it meanwhile.
    fn work(&self, mut job: Job) -> Report {
        let began = Instant::now();
        let (node, lane) = (job.node, job.task.lane);
        let mut outcome = Outcome::Ran;
        let result = match self.claim(&mut job) {
            Ok(Claim::Taken) => return Report::Taken(job),
            Ok(Claim::Free(lock)) => {
                let result = self.try_work(job, &mut outcome);
                drop(lock);
                result
            }
            Err(error) => Err(error),
        };
        Report::Finished(Finished {
            node,
            lane,
            result,
            outcome,
            duration: began.elapsed(),
        })
    }

    fn scope(&self, node: usize) -> Scope<'_> {
        Scope {
            cache: self.cache,
            cancel: self.cancel,
            listener: self.listener,
            step: number(node),
        }
    }

    /// Takes the lock of a job's key without waiting for it.
    fn claim(&self, job: &mut Job) -> Result<Claim, StepError> {
        if self.stop.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed) {
            return Err(StepError::new(&job.label, "interrupted"));
        }
        if job.task.reuse == Reuse::Never {
            return Ok(Claim::Free(None));
        }
        let step = number(job.node);
        let on_wait = |process| {
            if !job.is_waiting {
                self.listener.event(&Event::Waiting { step, process });
            }
        };
        let lock = self
            .cache
            .lock_key_unless(&job.task.key, on_wait, || true)
            .map_err(StepError::in_context(format!("{} {}", job.kind, job.label)))?;
        job.is_waiting = lock.is_none();
        Ok(lock.map_or(Claim::Taken, |lock| Claim::Free(Some(lock))))
    }

    /// Does a job whose lock is held.
    fn try_work(&self, job: Job, outcome: &mut Outcome) -> Result<Action, StepError> {
        let scope = self.scope(job.node);
        let Task {
            key, reuse, work, ..
        } = job.task;
        let in_context = || StepError::in_context(format!("{} {}", job.kind, job.label));
        if reuse == Reuse::Always
            && let Some(action) = lookup(self.cache, &key).map_err(in_context())?
        {
            *outcome = Outcome::Cached;
            return Ok(action);
        }
        self.listener.event(&Event::Started {
            step: scope.step,
            kind: job.kind,
            label: job.label.clone(),
        });
        let began = Instant::now();
        let mut action = work(&scope)?;
        action.kind = job.kind.to_owned();
        action.label.clone_from(&job.label);
        action.cost_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        action.edges = job.edges;
        let same = |old: &Action| old.outputs == action.outputs && old.values == action.values;
        if job.before.as_ref().is_some_and(same) {
            *outcome = Outcome::Unchanged;
        }
        let keep = || self.cache.put_action(&key, &action);
        match reuse {
            Reuse::Never => Ok(()),
            // Other systems' builds took the old answer for granted.
            Reuse::Refresh if *outcome != Outcome::Unchanged => self.cache.in_new_epoch(keep),
            Reuse::Always | Reuse::Refresh => keep(),
        }
        .map_err(in_context())?;
        Ok(action)
    }
}

/// Whether a job may be done.
enum Claim {
    /// With the right to do it, where there can be one.
    Free(Option<KeyLock>),
    /// Another process has that.
    Taken,
}

/// Returns what the cache knows of a key, when all its objects are there and whole.
fn lookup(cache: &Cache, key: &Key) -> Result<Option<Action>, CacheError> {
    let Some(action) = cache.action(key)? else {
        return Ok(None);
    };
    Ok(cache.sound(&action)?.then_some(action))
}

/// A step's next move, with what the cache knows of its key.
enum Move {
    Need(Need),
    Run(Task, Option<Action>),
    Done(Action),
}

/// A move, and the nodes whose results led to it.
type Asked = (Move, Vec<usize>);

/// What other processes do.
#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// When they are tried again.
    due: Option<Instant>,
}

impl Waiting {
    fn push(&mut self, job: Job) {
        self.due.get_or_insert_with(|| Instant::now() + POLL);
        self.jobs.push(job);
    }

    /// Returns those to try again, if it is time.
    fn take_due(&mut self) -> Vec<Job> {
        match self.due {
            Some(due) if due <= Instant::now() => std::mem::take(self).jobs,
            _ => Vec::new(),
        }
    }
}

struct Loop<'a> {
    worker: Worker<'a>,
    states: Vec<State>,
    graph: Graph,
    by_id: HashMap<Key, usize>,
    ready: VecDeque<usize>,
    /// What became ready since the last question.
    fresh: Vec<usize>,
    running: usize,
    /// Those of them that have a core.
    on_cores: usize,
    failure: Option<StepError>,
}

impl<'a> Loop<'a> {
    fn new(worker: Worker<'a>) -> Self {
        Self {
            worker,
            states: Vec::new(),
            graph: Graph::default(),
            by_id: HashMap::new(),
            ready: VecDeque::new(),
            fresh: Vec::new(),
            running: 0,
            on_cores: 0,
            failure: None,
        }
    }

    fn run(
        mut self,
        root: &Arc<dyn Step>,
        done: &mpsc::Receiver<Report>,
        start: &mut dyn FnMut(Job),
    ) -> Result<(Arc<Action>, Graph), RunError> {
        self.node(root);
        let mut waiting = Waiting::default();
        loop {
            loop {
                while let Some(node) = self.fresh.pop() {
                    self.ready.push_front(node);
                }
                if self.failure.is_some() || self.worker.cancel.load(Ordering::Relaxed) {
                    self.ready.clear();
                    waiting = Waiting::default();
                }
                if self.ready.is_empty() {
                    break;
                }
                self.advance(start);
            }
            if self.running == 0 && waiting.jobs.is_empty() {
                break;
            }
            let report = match waiting.due {
                None => done.recv().ok(),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    done.recv_timeout(left).ok()
                }
            };
            if let Some(report) = report {
                self.take(report, &mut waiting);
            }
            for job in waiting.take_due() {
                self.start(job, start);
            }
        }
        if self.worker.cancel.load(Ordering::Relaxed) {
            return Err(RunError::Cancelled);
        }
        if let Some(error) = self.failure {
            return Err(RunError::Step(error));
        }
        match self.states.first().and_then(|state| state.result.clone()) {
            Some(result) => Ok((result, self.graph)),
            None => Err(RunError::Step(StepError::new(
                root.label(),
                "its steps wait for each other (a bug in kiln)",
            ))),
        }
    }

    fn start(&mut self, job: Job, start: &mut dyn FnMut(Job)) {
        self.running += 1;
        self.on_cores += usize::from(job.task.lane == Lane::Cpu);
        start(job);
    }

    /// Takes what comes back from a lane.
    fn take(&mut self, report: Report, waiting: &mut Waiting) {
        self.running -= 1;
        let lane = match &report {
            Report::Finished(finished) => finished.lane,
            Report::Taken(job) => job.task.lane,
        };
        self.on_cores -= usize::from(lane == Lane::Cpu);
        match report {
            Report::Taken(job) => waiting.push(job),
            Report::Finished(finished) => match finished.result {
                Ok(action) => {
                    self.settle(finished.node, action, finished.outcome, finished.duration);
                }
                Err(error) => self.fail(finished.node, error),
            },
        }
    }

    fn fail(&mut self, node: usize, error: StepError) {
        let (kind, label) = (
            self.graph.nodes[node].kind,
            self.graph.nodes[node].label.clone(),
        );
        if self.failure.is_none() {
            self.worker.stop.store(true, Ordering::Relaxed);
            self.worker.listener.event(&Event::Failed {
                step: number(node),
                kind,
                label,
            });
            self.failure = Some(error);
        }
    }

    /// Returns the node of a step, making it when it is new.
    fn node(&mut self, step: &Arc<dyn Step>) -> usize {
        let id = step.id();
        if let Some(node) = self.by_id.get(&id) {
            return *node;
        }
        let node = self.states.len();
        self.by_id.insert(id, node);
        self.states.push(State {
            step: step.clone(),
            missing: 0,
            wanted_by: Vec::new(),
            result: None,
        });
        self.graph.nodes.push(Node {
            kind: step.kind(),
            label: step.label(),
            key: None,
            needs: Vec::new(),
            outcome: None,
            duration: Duration::ZERO,
        });
        self.fresh.push(node);
        node
    }

    /// Asks some of the ready nodes' steps for their next moves, and makes them.
    fn advance(&mut self, start: &mut dyn FnMut(Job)) {
        // Behind work that has the cores a wave would wait for its end.
        let wave = match self.ready.len() {
            many if many >= *WAVE.start() && self.on_cores == 0 => many.min(*WAVE.end()),
            _ => 1,
        };
        let wave: Vec<usize> = self.ready.drain(..wave).collect();
        for (node, asked) in wave.iter().zip(self.ask(&wave)) {
            match asked {
                Ok((next, used)) => {
                    self.graph.nodes[*node].needs = used;
                    self.make(*node, next, start);
                }
                Err(error) => return self.fail(*node, error),
            }
        }
    }

    /// Asks steps for their next moves.
    fn ask(&self, wave: &[usize]) -> Vec<Result<Asked, StepError>> {
        let cache = self.worker.cache;
        if let [node] = wave {
            let asked = self.ask_one(*node);
            return vec![asked.and_then(|asked| self.whole(*node, asked))];
        }
        let asked: Vec<_> = wave.par_iter().map(|node| self.ask_one(*node)).collect();
        let held: Vec<Digest> = asked
            .iter()
            .flatten()
            .filter_map(|(next, _)| match next {
                Move::Run(_, Some(action)) => Some(&action.outputs),
                _ => None,
            })
            .flat_map(|outputs| outputs.iter().map(|output| output.1))
            .collect();
        // At once: each time costs a write, and where others share the cache a sync.
        if let Err(error) = cache.hold(&held) {
            return vec![Err(self.in_step(wave[0], error))];
        }
        let asked = asked.into_par_iter().zip(wave);
        asked
            .map(|(asked, node)| asked.and_then(|asked| self.whole(*node, asked)))
            .collect()
    }

    fn ask_one(&self, node: usize) -> Result<Asked, StepError> {
        self.go_on(node)?;
        let step = &self.states[node].step;
        let used = RefCell::new(Vec::new());
        let find = |id: &Key| {
            let at = *self.by_id.get(id)?;
            let result = self.states[at].result.clone()?;
            used.borrow_mut().push(at);
            Some(result)
        };
        let results = Results {
            find: &find,
            cache: self.worker.cache,
            listener: self.worker.listener,
            is_recall: self.worker.is_recall,
        };
        let next = match step.next(&results)? {
            Next::Done(action) => Move::Done(action),
            Next::Need(steps) => Move::Need(steps),
            Next::Run(task) => {
                let known = match task.reuse {
                    Reuse::Never => None,
                    Reuse::Always | Reuse::Refresh => self
                        .worker
                        .cache
                        .action(&task.key)
                        .map_err(|error| self.in_step(node, error))?,
                };
                Move::Run(task, known)
            }
        };
        let (mut used, mut known) = (used.into_inner(), HashSet::new());
        used.retain(|node| known.insert(*node));
        Ok((next, used))
    }

    /// Forgets what is known of a key when its objects are not all there and whole.
    fn whole(&self, node: usize, (next, used): Asked) -> Result<Asked, StepError> {
        let Move::Run(task, Some(action)) = next else {
            return Ok((next, used));
        };
        // It may have to be hashed.
        self.go_on(node)?;
        let sound = self.worker.cache.sound(&action);
        let sound = sound.map_err(|error| self.in_step(node, error))?;
        Ok((Move::Run(task, sound.then_some(action)), used))
    }

    /// Returns an error when the caller has given up: a wave is long.
    fn go_on(&self, node: usize) -> Result<(), StepError> {
        match self.worker.cancel.load(Ordering::Relaxed) {
            true => Err(StepError::new(&self.graph.nodes[node].label, "interrupted")),
            false => Ok(()),
        }
    }

    fn in_step(&self, node: usize, error: CacheError) -> StepError {
        let Node { kind, label, .. } = &self.graph.nodes[node];
        StepError::new(format!("{kind} {label}"), error)
    }

    /// Makes a node's next move.
    fn make(&mut self, node: usize, next: Move, start: &mut dyn FnMut(Job)) {
        match next {
            Move::Done(action) => self.settle(node, action, Outcome::Cached, Duration::ZERO),
            Move::Need(steps) => {
                let mut missing = 0;
                for step in &steps {
                    let needed = self.node(step);
                    if self.states[needed].result.is_none() {
                        self.states[needed].wanted_by.push(node);
                        missing += 1;
                    }
                }
                self.states[node].missing = missing;
                if missing == 0 {
                    self.fresh.push(node);
                }
            }
            Move::Run(task, known) => {
                let Node { kind, label, .. } = &self.graph.nodes[node];
                let (kind, label) = (*kind, label.clone());
                self.graph.nodes[node].key = Some(task.key);
                match known {
                    Some(action) if task.reuse == Reuse::Always => {
                        self.settle(node, action, Outcome::Cached, Duration::ZERO);
                    }
                    _ if self.worker.is_recall && task.reuse != Reuse::Never => {
                        self.fail(node, StepError::new(format!("{kind} {label}"), NotKept));
                    }
                    before => {
                        let needs = &self.graph.nodes[node].needs;
                        let edges = needs.iter().filter_map(|need| self.graph.nodes[*need].key);
                        let job = Job {
                            node,
                            kind,
                            label,
                            task,
                            edges: edges.collect(),
                            before,
                            is_waiting: false,
                        };
                        self.start(job, start);
                    }
                }
            }
        }
    }

    /// Takes a result and wakes whoever waits for it.
    fn settle(&mut self, node: usize, action: Action, outcome: Outcome, duration: Duration) {
        let bytes = action.outputs.iter().map(|output| output.2).sum();
        self.states[node].result = Some(Arc::new(action));
        let record = &mut self.graph.nodes[node];
        (record.outcome, record.duration) = (Some(outcome), duration);
        self.worker.listener.event(&Event::Finished {
            step: number(node),
            kind: record.kind,
            label: record.label.clone(),
            outcome,
            duration,
            bytes,
        });
        for waiting in std::mem::take(&mut self.states[node].wanted_by) {
            self.states[waiting].missing -= 1;
            if self.states[waiting].missing == 0 {
                self.fresh.push(waiting);
            }
        }
    }
}

fn number(node: usize) -> StepNumber {
    StepNumber(u32::try_from(node).unwrap_or(u32::MAX))
}
