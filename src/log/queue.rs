//! Lines of the log on their way out: who logs never waits for who reads.
//!
//! A pipe that nobody reads holds 64 KiB, and then a write waits for ever; on the one thread that does all, that would be the
//! end of every call and every probe. So lines are put into a queue, and a thread of its own writes them.
//!
//! Owns: that thread. Invariants: lines come out whole, one write each, in the order in which they came; at most [`MOST`]
//! bytes wait; what finds no room is lost, counted, and told when lines flow again.
//! Units: bytes, `Duration`. Fails with: nothing; what cannot be written is lost, as it would be without a queue.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

/// Some thousand lines.
const MOST: usize = 1 << 20;

/// Cheap to clone; each clone is the same queue.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// There is a line.
    more: Condvar,
    /// All has been written.
    done: Condvar,
    writer: OnceLock<ThreadId>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    lost: u64,
    /// The writer has nothing to do; else it need not be woken.
    idle: bool,
}

impl Queue {
    /// Lines go to `to`; `tell` logs how many were lost.
    pub(super) fn start(
        mut to: impl io::Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self(Arc::new(Inner {
            state: Mutex::default(),
            more: Condvar::new(),
            done: Condvar::new(),
            writer: OnceLock::new(),
        }));
        let of_writer = queue.clone();
        // Not joined: it may hang in a write for ever. `flush` waits for what it has to do.
        thread::Builder::new().name("log".into()).spawn(move || {
            // Set once.
            let _ = of_writer.0.writer.set(thread::current().id());
            loop {
                let line = of_writer.next();
                let written = to.write_all(&line).and_then(|()| to.flush());
                // Whoever has gone for good is told nothing.
                if written.is_ok()
                    && let Some(lost) = of_writer.lost()
                {
                    tell(lost);
                }
            }
        })?;
        Ok(queue)
    }

    /// Waits until all that was logged is written, or `patience` is over.
    pub(super) fn flush(&self, patience: Duration) {
        // It cannot wait for itself.
        if !self.is_writer() {
            let waits = |state: &mut State| !(state.idle && state.lines.is_empty());
            drop(self.0.done.wait_timeout_while(self.lock(), patience, waits));
        }
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        // A line too long for any queue goes alone; what the writer tells of lost ones must not be lost.
        if state.bytes + line.len() > MOST && !state.lines.is_empty() && !self.is_writer() {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        if std::mem::take(&mut state.idle) {
            self.0.more.notify_one();
        }
    }

    /// The line to write now.
    fn next(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                return line;
            }
            state.idle = true;
            self.0.done.notify_all();
            state = self.0.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many were lost, once: when there is room again for a while.
    fn lost(&self) -> Option<u64> {
        let mut state = self.lock();
        let told = state.lost > 0 && state.bytes <= MOST / 2;
        told.then(|| std::mem::take(&mut state.lost))
    }

    fn is_writer(&self) -> bool {
        self.0.writer.get() == Some(&thread::current().id())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each write is one line, as the formatters write them.
impl io::Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Each write, once it is let go.
    struct Reader {
        wrote: mpsc::Sender<String>,
        /// `None`: always.
        go: Option<mpsc::Receiver<()>>,
    }

    impl io::Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if let Some(go) = &self.go {
                let _ = go.recv();
            }
            let _ = self.wrote.send(String::from_utf8(line.to_vec()).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(go: Option<mpsc::Receiver<()>>) -> (Queue, mpsc::Receiver<String>) {
        let (wrote, written) = mpsc::channel();
        let place: Arc<OnceLock<Queue>> = Arc::default();
        let itself = Arc::clone(&place);
        let tell = move |lost: u64| itself.get().unwrap().push(format!("lost {lost}\n").as_bytes());
        let queue = Queue::start(Reader { wrote, go }, tell).unwrap();
        assert!(place.set(queue.clone()).is_ok());
        (queue, written)
    }

    #[test]
    fn every_line_comes_out_in_order_in_one_write() {
        let (queue, written) = queue(None);
        // No more than fits, were the reader ever so slow.
        let lines: Vec<String> = (0..10_000).map(|n| format!("line {n}\n")).collect();
        for line in &lines {
            queue.push(line.as_bytes());
        }
        queue.flush(SOON);
        assert!(written.try_iter().eq(lines));
        // Flushed when there is nothing, too.
        queue.flush(SOON);
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_is_told_what_it_has_lost() {
        let (go, gone) = mpsc::channel();
        let (queue, written) = queue(Some(gone));
        let line = |n: usize| format!("{n:>999}\n");
        const PUSHED: usize = 3000;
        queue.push(line(0).as_bytes());
        // It has the first one in hand: whenever it took that, there would be room for one more.
        while !queue.lock().lines.is_empty() {
            thread::yield_now();
        }
        for n in 1..PUSHED {
            queue.push(line(n).as_bytes());
        }
        let began = tokio::time::Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(
            (50..5000).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        // It reads again, and then for ever.
        drop(go);
        queue.flush(SOON);
        let written: Vec<String> = written.try_iter().collect();
        let told: Vec<&String> = written.iter().filter(|line| line.starts_with("lost")).collect();
        let kept: Vec<&String> = written.iter().filter(|line| !line.starts_with("lost")).collect();
        assert!(
            kept.iter().copied().eq(&(0..kept.len()).map(line).collect::<Vec<_>>()),
            "the first ones, in order"
        );
        assert!((MOST / 1000..=MOST / 1000 + 1).contains(&kept.len()), "{}", kept.len());
        assert_eq!(told, [&format!("lost {}\n", PUSHED - kept.len())]);
    }

    #[test]
    fn a_line_longer_than_the_queue_comes_out() {
        let (queue, written) = queue(None);
        let long = "x".repeat(2 * MOST);
        queue.push(long.as_bytes());
        queue.flush(SOON);
        assert!(written.try_iter().eq([long]));
    }
}
