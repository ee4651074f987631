use std::sync::mpsc;

use super::*;

const SHORT: Duration = Duration::from_millis(20);

/// A server that is silent until [`Server::answer`].
struct Server {
    silence: Arc<Mutex<mpsc::Receiver<()>>>,
    answers: mpsc::Sender<()>,
}

impl Server {
    fn new() -> Self {
        let (answers, silence) = mpsc::channel();
        Self { silence: Arc::new(Mutex::new(silence)), answers }
    }

    /// Work that hangs until the server answers.
    fn call(&self) -> impl FnOnce() + Send + 'static {
        let silence = self.silence.clone();
        move || {
            let _ = silence.lock().recv();
        }
    }

    fn answer(self) {
        drop(self.answers);
    }
}

/// A runtime of as many threads for blocking work as one directory may hold, and two.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(AT_ONCE + SYNCS + 2).build().unwrap()
}

#[test]
fn a_silent_server_holds_so_many_threads_and_the_next_calls_are_refused_at_once() {
    runtime().block_on(async {
        let (doors, server) = (Doors::new(SHORT), Server::new());
        let (dead, alive) = (Path::new("/pools/dead"), Path::new("/pools/alive"));
        for _ in 0..AT_ONCE {
            let error = doors.ask(dead, "cannot list it", SHORT, server.call()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unknown);
            assert_eq!(error.context, "cannot list it: /pools/dead has not answered in time; it may still happen");
        }
        // Far more than there are threads: not one of them takes one.
        for _ in 0..100 {
            let error = doors.ask(dead, "cannot list it", SHORT, server.call()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert_eq!(error.context, "cannot list it: /pools/dead does not answer; 4 earlier calls are still waiting for it");
            assert_eq!(doors.change(dead, "x", server.call()).await.unwrap_err().kind, ErrorKind::Unavailable);
            assert_eq!(doors.sync(dead, "x", server.call()).await.unwrap_err().kind, ErrorKind::Unavailable);
        }
        assert_eq!(doors.ask(alive, "x", Duration::from_secs(60), || 7).await.unwrap(), 7, "others have their own places");
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        server.answer();
        assert_eq!(doors.ask(dead, "x", Duration::from_secs(60), || 8).await.unwrap(), 8, "it answers again");
    });
}

#[test]
fn changes_and_syncs_are_not_cut_off_and_wait_while_others_get_on() {
    runtime().block_on(async {
        let (doors, slow) = (Arc::new(Doors::new(Duration::from_secs(60))), Path::new("/pools/slow"));
        // As many turns as it takes for each thread to have several.
        let works = (0..4 * (AT_ONCE + SYNCS)).map(|number| {
            let doors = doors.clone();
            async move {
                let work = move || {
                    std::thread::sleep(Duration::from_millis(2));
                    number
                };
                match number % 2 {
                    0 => doors.change(slow, "x", work).await.unwrap(),
                    _ => doors.sync(slow, "x", work).await.unwrap(),
                }
            }
        });
        let done = futures_util::future::join_all(works).await;
        assert_eq!(done, (0..4 * (AT_ONCE + SYNCS)).collect::<Vec<_>>());
    });
}

#[test]
fn a_change_on_a_server_that_falls_silent_ends_when_it_is_back() {
    runtime().block_on(async {
        let (doors, server, dead) = (Doors::new(SHORT), Server::new(), Path::new("/pools/dead"));
        let change = doors.change(dead, "x", server.call());
        tokio::pin!(change);
        assert!(tokio::time::timeout(SHORT * 3, &mut change).await.is_err(), "it is still waited for");
        server.answer();
        change.await.unwrap();
    });
}
