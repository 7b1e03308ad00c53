//! How many connections are answered at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::task::AbortHandle;

/// Places for connections. Whoever comes finds one: if all are taken, the connection that has had its
/// for longest is closed. An answer takes milliseconds, so that is one that says nothing, and who
/// opens such connections keeps nobody else from an answer.
#[derive(Debug)]
pub struct Places {
    most: usize,
    /// The oldest first.
    taken: Mutex<VecDeque<AbortHandle>>,
}

impl Places {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), taken: Mutex::default() }
    }

    /// Answers a connection in a task of its own.
    pub fn spawn(&self, answering: impl Future<Output = ()> + Send + 'static) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= self.most {
            taken.retain(|task| !task.is_finished());
        }
        if taken.len() >= self.most
            && let Some(oldest) = taken.pop_front()
        {
            oldest.abort();
        }
        taken.push_back(tokio::spawn(answering).abort_handle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn the_oldest_of_those_that_wait_goes() {
        let places = Places::new(3);
        let mut waiting = Vec::new();
        for number in 0..5 {
            let (held, gone) = oneshot::channel::<()>();
            waiting.push(gone);
            // The second has its answer at once.
            places.spawn(async move {
                let _held = held;
                if number != 1 {
                    std::future::pending::<()>().await;
                }
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gone: Vec<bool> = waiting
            .iter_mut()
            .map(|one| one.try_recv() == Err(oneshot::error::TryRecvError::Closed))
            .collect();
        assert_eq!(gone, [true, true, false, false, false]);
    }

    #[tokio::test]
    async fn who_is_done_leaves_a_place() {
        let places = Places::new(2);
        let done = Arc::new(tokio::sync::Semaphore::new(0));
        let (held, mut gone) = oneshot::channel::<()>();
        places.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        for _ in 0..50 {
            let done = done.clone();
            places.spawn(async move { done.add_permits(1) });
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(done.available_permits(), 50);
        assert_eq!(
            gone.try_recv(),
            Err(oneshot::error::TryRecvError::Empty),
            "it was not in the way"
        );
    }
}
