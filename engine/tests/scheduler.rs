//! The scheduler: done once, cut off early, given up cleanly, edges recorded.
#![allow(clippy::unwrap_used)] // a test may

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use kiln_cache::{Action, Cache, CacheError, Digest, Key, KeyBuilder};
use kiln_engine::event::{Event, Listener, Outcome, Silent};
use kiln_engine::step::scheduler::{RunError, recall, run};
use kiln_engine::step::{Lane, Next, Results, Reuse, Step, StepError, Task};

/// What the steps of a test did, and what they are told to do.
#[derive(Default)]
struct World {
    ran: Mutex<Vec<String>>,
    /// What a leaf gives.
    values: Mutex<HashMap<&'static str, &'static str>>,
    failing: Mutex<Option<&'static str>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

struct Sum {
    world: Arc<World>,
    name: &'static str,
    needs: Vec<Arc<dyn Step>>,
    reuse: Reuse,
    lane: Lane,
}

impl Step for Sum {
    fn kind(&self) -> &'static str {
        "sum"
    }
    fn label(&self) -> String {
        self.name.to_owned()
    }
    fn id(&self) -> Key {
        KeyBuilder::new("test", 1).field("name", self.name).finish()
    }
    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        // One need after the other: the graph grows.
        for (at, need) in self.needs.iter().enumerate() {
            if got.get(&**need).is_none() {
                return Ok(Next::Need(self.needs[..=at].to_vec()));
            }
        }
        let inputs = got.all(&self.needs).ok().expect("all there");
        let mut text = self
            .world
            .values
            .lock()
            .unwrap()
            .get(self.name)
            .copied()
            .unwrap_or("")
            .to_owned();
        let mut key = KeyBuilder::new("sum", 1).field("name", self.name);
        if self.reuse == Reuse::Always {
            key = key.field("own", &text);
        }
        for input in inputs {
            let value = input.output("text").copied().expect("an output");
            key = key.digest("input", &value);
            text.push_str(&String::from_utf8(got.cache.read(&value).unwrap()).unwrap());
        }
        let (world, name) = (self.world.clone(), self.name);
        Ok(Next::Run(Task {
            key: key.finish(),
            lane: self.lane,
            reuse: self.reuse,
            work: Box::new(move |scope| {
                let now = world.at_once.fetch_add(1, Ordering::SeqCst) + 1;
                world.at_once_max.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
                world.at_once.fetch_sub(1, Ordering::SeqCst);
                world.ran.lock().unwrap().push(name.to_owned());
                if *world.failing.lock().unwrap() == Some(name) {
                    return Err(StepError::new(format!("sum {name}"), "told to fail"));
                }
                let digest = scope.cache.put(text.as_bytes()).unwrap();
                Ok(Action {
                    outputs: vec![("text".into(), digest, text.len() as u64)],
                    ..Action::default()
                })
            }),
        }))
    }
}

/// Several steps at once.
struct All(Vec<Arc<dyn Step>>);
impl Step for All {
    fn kind(&self) -> &'static str {
        "all"
    }
    fn label(&self) -> String {
        String::new()
    }
    fn id(&self) -> Key {
        KeyBuilder::new("all", 1).finish()
    }
    fn next(&self, got: &Results<'_>) -> Result<Next, StepError> {
        Ok(got
            .all(&self.0)
            .map_or_else(Next::Need, |_| Next::Done(Action::default())))
    }
}

fn leaf(world: &Arc<World>, name: &'static str) -> Arc<dyn Step> {
    let world = world.clone();
    Arc::new(Sum {
        world,
        name,
        needs: vec![],
        reuse: Reuse::Refresh,
        lane: Lane::Network,
    })
}

fn sum(world: &Arc<World>, name: &'static str, needs: &[&Arc<dyn Step>]) -> Arc<dyn Step> {
    let needs = needs.iter().map(|need| (*need).clone()).collect();
    Arc::new(Sum {
        world: world.clone(),
        name,
        needs,
        reuse: Reuse::Always,
        lane: Lane::Cpu,
    })
}

fn diamond(world: &Arc<World>) -> Arc<dyn Step> {
    let (a, b) = (leaf(world, "a"), leaf(world, "b"));
    let (left, right) = (sum(world, "left", &[&a, &b]), sum(world, "right", &[&b]));
    sum(world, "top", &[&left, &right])
}

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().join("cache")).unwrap();
    (directory, cache)
}

fn ran(world: &World) -> Vec<String> {
    let mut ran = std::mem::take(&mut *world.ran.lock().unwrap());
    ran.sort();
    ran
}

fn go(cache: &Cache, root: &Arc<dyn Step>) -> Result<String, RunError> {
    run(cache, &Silent, &AtomicBool::new(false), root).map(|(action, _)| {
        String::from_utf8(cache.read(action.output("text").unwrap()).unwrap()).unwrap()
    })
}

#[test]
fn a_change_without_effect_stops_the_wave() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    world
        .values
        .lock()
        .unwrap()
        .extend([("a", "1"), ("b", "2"), ("left", "L"), ("right", "R")]);
    assert_eq!(go(&cache, &diamond(&world)).unwrap(), "L12R2");
    assert_eq!(ran(&world), ["a", "b", "left", "right", "top"]);

    // The leaves look at the world again; it is the same, so nothing above them runs.
    assert_eq!(go(&cache, &diamond(&world)).unwrap(), "L12R2");
    assert_eq!(ran(&world), ["a", "b"]);

    world.values.lock().unwrap().insert("a", "3");
    assert_eq!(go(&cache, &diamond(&world)).unwrap(), "L32R2");
    assert_eq!(ran(&world), ["a", "b", "left", "top"]);

    // Back to what it was: known, so only the leaves run.
    world.values.lock().unwrap().insert("a", "1");
    assert_eq!(go(&cache, &diamond(&world)).unwrap(), "L12R2");
    assert_eq!(ran(&world), ["a", "b"]);
}

#[test]
fn edges_are_recorded_in_the_graph_and_in_the_cache() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    let (_, graph) = run(&cache, &Silent, &AtomicBool::new(false), &diamond(&world)).unwrap();
    let node = |label: &str| {
        graph
            .nodes
            .iter()
            .position(|node| node.label == label)
            .unwrap()
    };
    let mut needs = graph.nodes[node("left")].needs.clone();
    needs.sort_unstable();
    let mut expected = [node("a"), node("b")];
    expected.sort_unstable();
    assert_eq!(needs, expected);
    let key = |label: &str| graph.nodes[node(label)].key.unwrap();
    let action = cache.action(&key("top")).unwrap().unwrap();
    assert_eq!(action.edges, [key("left"), key("right")]);
    assert_eq!(
        (action.kind.as_str(), action.label.as_str()),
        ("sum", "top")
    );
}

#[test]
fn what_was_there_already_is_an_edge_too() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    let a = leaf(&world, "a");
    let left = sum(&world, "left", &[&a]);
    // It never has to wait for a.
    let top = sum(&world, "top", &[&left, &a]);
    let (_, graph) = run(&cache, &Silent, &AtomicBool::new(false), &top).unwrap();
    let key = |label: &str| {
        let mut nodes = graph.nodes.iter();
        nodes.find(|node| node.label == label).unwrap().key.unwrap()
    };
    let action = cache.action(&key("top")).unwrap().unwrap();
    assert_eq!(action.edges, [key("left"), key("a")]);
}

#[test]
fn many_steps_are_asked_side_by_side_and_found_in_the_cache() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    let names: Vec<&'static str> = (0..100)
        .map(|number| &*Box::leak(number.to_string().into_boxed_str()))
        .collect();
    let leaves: Vec<_> = names.iter().map(|name| sum(&world, name, &[])).collect();
    let root = sum(&world, "root", &leaves.iter().collect::<Vec<_>>());
    let first = go(&cache, &root).unwrap();
    assert_eq!(ran(&world).len(), 101);
    let (action, graph) = recall(&cache, &Silent, &AtomicBool::new(false), &root).unwrap();
    let text = cache.read(action.output("text").unwrap()).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), first);
    assert!(ran(&world).is_empty());
    let labels = graph.nodes.iter().map(|node| node.label.as_str());
    assert!(labels.eq(["root"].into_iter().chain(names)));
}

#[test]
fn the_network_lane_is_bounded_and_shared_steps_run_once() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
    let leaves: Vec<_> = names.iter().map(|name| leaf(&world, name)).collect();
    let twice: Vec<_> = leaves.iter().chain(&leaves).cloned().collect();
    let root = Sum {
        world: world.clone(),
        name: "root",
        needs: twice,
        reuse: Reuse::Always,
        lane: Lane::Cpu,
    };
    let one_by_one: Arc<dyn Step> = Arc::new(root);
    go(&cache, &one_by_one).unwrap();
    assert_eq!(ran(&world).len(), names.len() + 1);

    let all: Arc<dyn Step> = Arc::new(All(leaves));
    run(&cache, &Silent, &AtomicBool::new(false), &all).unwrap();
    let most = world.at_once_max.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
}

#[test]
fn a_failure_keeps_what_was_done_and_names_the_step() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    *world.failing.lock().unwrap() = Some("left");
    let error = go(&cache, &diamond(&world)).unwrap_err();
    let RunError::Step(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.context, "sum left");
    let first = ran(&world);
    assert!(!first.contains(&"top".to_owned()));

    *world.failing.lock().unwrap() = None;
    go(&cache, &diamond(&world)).unwrap();
    let second = ran(&world);
    assert!(second.contains(&"left".to_owned()) && second.contains(&"top".to_owned()));
}

#[test]
fn a_lost_object_is_a_miss_and_is_made_again() {
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    world.values.lock().unwrap().insert("top", "T");
    let text = go(&cache, &diamond(&world)).unwrap();
    ran(&world);
    let hex = Digest::of(text.as_bytes()).to_string();
    std::fs::remove_file(cache.root().join("objects").join(&hex[..2]).join(&hex[2..])).unwrap();
    assert_eq!(go(&cache, &diamond(&world)).unwrap(), text);
    assert!(ran(&world).contains(&"top".to_owned()));
    let lost = CacheError::MissingObject(Digest::of(b"x"));
    assert_eq!(
        StepError::new("step", lost).lost_object(),
        Some(Digest::of(b"x"))
    );
}

#[test]
fn cancelling_ends_the_run_and_outcomes_are_told() {
    struct Count(Mutex<Vec<(String, Outcome)>>);
    impl Listener for Count {
        fn event(&self, event: &Event) {
            if let Event::Finished { label, outcome, .. } = event {
                self.0.lock().unwrap().push((label.clone(), *outcome));
            }
        }
    }
    let (_directory, cache) = cache();
    let world = Arc::new(World::default());
    let root = diamond(&world);
    assert!(matches!(
        run(&cache, &Silent, &AtomicBool::new(true), &root),
        Err(RunError::Cancelled)
    ));
    go(&cache, &root).unwrap();
    let count = Count(Mutex::default());
    run(&cache, &count, &AtomicBool::new(false), &root).unwrap();
    let told: HashMap<_, _> = count.0.into_inner().unwrap().into_iter().collect();
    assert_eq!(told["a"], Outcome::Unchanged);
    assert_eq!(told["top"], Outcome::Cached);
}

#[test]
fn a_lost_object_is_seen_through_every_error_that_carries_it() {
    use kiln_engine::format::FormatError;
    use kiln_engine::tree::TreeError;
    use kiln_engine::tree::flatten::FlattenError;
    use kiln_engine::tree::generate::GenerateError;
    use kiln_engine::tree::unpack::UnpackError;
    let digest = Digest::of(b"x");
    let lost = || CacheError::MissingObject(digest);
    let tree = || TreeError::from(lost());
    let all: Vec<Box<dyn std::error::Error + Send + Sync>> = vec![
        tree().into(),
        FlattenError::from(tree()).into(),
        GenerateError::from(tree()).into(),
        GenerateError::from(lost()).into(),
        UnpackError::from(tree()).into(),
        UnpackError::from(lost()).into(),
        FormatError::from(tree()).into(),
        FormatError::from(lost()).into(),
        std::io::Error::other(lost()).into(),
        FlattenError::from(TreeError::from(CacheError::io("read", "x".as_ref())(
            std::io::Error::other(lost()),
        )))
        .into(),
    ];
    for error in all {
        let text = format!("{error:?}");
        assert_eq!(
            StepError::new("step", error).lost_object(),
            Some(digest),
            "{text}"
        );
    }
}

/// Whose work waits for that of another run, and begins something else meanwhile, as work with
/// parallel parts may.
struct Meeting {
    name: &'static str,
    both: Arc<Barrier>,
}

impl Step for Meeting {
    fn kind(&self) -> &'static str {
        "meeting"
    }
    fn label(&self) -> String {
        self.name.to_owned()
    }
    fn id(&self) -> Key {
        KeyBuilder::new("meeting", 1)
            .field("name", self.name)
            .finish()
    }
    fn next(&self, _: &Results<'_>) -> Result<Next, StepError> {
        let both = self.both.clone();
        Ok(Next::Run(Task {
            key: self.id(),
            lane: Lane::Cpu,
            reuse: Reuse::Always,
            work: Box::new(move |_| {
                both.wait();
                while rayon::yield_now() == Some(rayon::Yield::Executed) {}
                Ok(Action::default())
            }),
        }))
    }
}

#[test]
fn two_runs_that_begin_what_the_other_is_doing_do_not_wait_for_ever() {
    let (_directory, cache) = cache();
    let root = cache.root().to_owned();
    let both = Arc::new(Barrier::new(2));
    let (done, wait) = mpsc::channel();
    for names in [["x", "y"], ["y", "x"]] {
        let (root, both, done) = (root.clone(), both.clone(), done.clone());
        std::thread::spawn(move || {
            let step = |name| -> Arc<dyn Step> {
                let both = both.clone();
                Arc::new(Meeting { name, both })
            };
            let all: Arc<dyn Step> = Arc::new(All(names.map(step).to_vec()));
            let cache = Cache::open(&root).unwrap();
            // One thread for the graph, one for the work: it has the first and finds the second.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
            let ran = pool
                .unwrap()
                .install(|| run(&cache, &Silent, &AtomicBool::new(false), &all));
            let mut outcomes: Vec<_> = ran.unwrap().1.nodes;
            outcomes.retain(|node| node.kind == "meeting");
            let outcomes = outcomes.into_iter().map(|node| node.outcome.unwrap());
            done.send(outcomes.collect::<Vec<_>>()).unwrap();
        });
    }
    for _ in 0..2 {
        let outcomes = wait.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(outcomes, [Outcome::Ran, Outcome::Cached]);
    }
}

#[test]
fn who_waits_for_another_process_can_be_cancelled() {
    let (_directory, cache) = cache();
    let both = Arc::new(Barrier::new(2));
    let step: Arc<dyn Step> = Arc::new(Meeting { name: "x", both });
    let _lock = cache.lock_key(&step.id(), |_| {}).unwrap();
    let cancel = AtomicBool::new(false);
    struct GiveUp<'a>(&'a AtomicBool);
    impl Listener for GiveUp<'_> {
        fn event(&self, event: &Event) {
            if matches!(event, Event::Waiting { process, .. } if *process == std::process::id()) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
    }
    assert!(matches!(
        run(&cache, &GiveUp(&cancel), &cancel, &step),
        Err(RunError::Cancelled)
    ));
}
