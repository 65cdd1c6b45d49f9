//! Getting an answer from the upstreams: one lookup for all who ask the same at the same time,
//! several servers if need be.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared as SharedFuture},
    stream::FuturesUnordered,
};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};

use super::{
    Shared,
    exchange::{self, Fault},
};
use crate::{
    cache::Key,
    forwarder::Outcome,
    reply::{ExtendedError, Reply},
    request::Question,
    upstreams::{Attempt, Attempts, DEADLINE},
};

/// How long a probe of a silent server waits.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Lookups under way. That equal questions share one is also what keeps an attacker from having
/// many chances at a time to guess its id (RFC 5452 section 5).
#[derive(Default)]
pub(super) struct Lookups(Mutex<HashMap<Key, SharedFuture<BoxFuture<'static, Arc<Outcome>>>>>);

impl Shared {
    /// What the upstreams say to `question`.
    pub(super) async fn lookup(self: &Arc<Self>, question: &Question) -> Arc<Outcome> {
        let key = Key::of(question);
        let lookup = {
            let mut lookups = self.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
            lookups
                .entry(key.clone())
                .or_insert_with(|| {
                    let (shared, question) = (self.clone(), question.clone());
                    let lookup = async move {
                        let asked = shared.forwarder().generation();
                        let outcome = shared.ask_upstreams(&question).await;
                        shared.forwarder().keep(&question, &outcome, asked, Instant::now());
                        let mut lookups =
                            shared.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
                        lookups.remove(&key);
                        Arc::new(outcome)
                    };
                    let lookup = lookup.boxed().shared();
                    // It comes to its end also if nobody waits any more.
                    tokio::spawn(lookup.clone());
                    lookup
                })
                .clone()
        };
        lookup.await
    }

    async fn ask_upstreams(self: &Arc<Self>, question: &Question) -> Outcome {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let attempts = self.forwarder().upstreams.attempts();
        let asking = self.race(attempts, question, deadline);
        match tokio::time::timeout_at(deadline, asking).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(None),
        }
    }

    /// Makes one attempt after the other, each while those before may still succeed; the first
    /// answer counts. Attempts that come too late go on without us: how they end is what we know
    /// of their servers.
    async fn race(
        self: &Arc<Self>,
        mut attempts: Attempts,
        question: &Question,
        deadline: tokio::time::Instant,
    ) -> Outcome {
        let mut running = FuturesUnordered::new();
        let mut why = None;
        let mut asked = false;
        loop {
            let attempt = attempts.next();
            if let Some(Attempt { server, .. }) = attempt {
                asked = true;
                let attempt = self.clone().attempt(server, question.clone(), deadline);
                running.push(tokio::spawn(attempt).map(move |answer| (server, answer)));
            } else if running.is_empty() {
                return if asked { Outcome::Failed(why) } else { Outcome::NoUpstream };
            }
            let patience = async {
                match attempt {
                    Some(attempt) => tokio::time::sleep(attempt.patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((server, answer)) = running.next() => match answer {
                    Ok(Ok(reply)) => return Outcome::Answered(reply),
                    Ok(Err(Failure::Lame(reason))) => {
                        attempts.exclude(server);
                        why = why.or(reason);
                    }
                    Ok(Err(Failure::Silent | Failure::NoPlace)) | Err(_) => {}
                },
                () = patience => {
                    if let Some(Attempt { server, patience }) = attempt {
                        self.forwarder().upstreams.slow(server, patience);
                    }
                }
            }
        }
    }

    async fn attempt(
        self: Arc<Self>,
        server: SocketAddr,
        question: Question,
        deadline: tokio::time::Instant,
    ) -> Result<Reply, Failure> {
        // Nobody waits for it after that; else these would grow in number while upstreams are silent.
        let place = tokio::time::timeout_at(deadline, self.attempts.acquire()).await;
        let Ok(permit) = place else { return Err(Failure::NoPlace) };
        let start = Instant::now();
        let answer = exchange::ask(server, &question, DEADLINE).await;
        drop(permit);
        self.judge(server, answer, start.elapsed())
    }

    fn judge(
        &self,
        server: SocketAddr,
        answer: Result<Message, Fault>,
        rtt: Duration,
    ) -> Result<Reply, Failure> {
        match answer {
            Ok(message) => {
                let mut forwarder = self.forwarder();
                let judged = forwarder.judge(message);
                match judged {
                    Ok(reply) => {
                        forwarder.upstreams.answered(server, rtt);
                        Ok(reply)
                    }
                    Err(reason) => {
                        forwarder.upstreams.answered_lame(server, rtt);
                        Err(Failure::Lame(reason))
                    }
                }
            }
            Err(Fault::Silent(error)) => {
                tracing::debug!(%server, %error, "upstream");
                self.is_silent(server);
                Err(Failure::Silent)
            }
            Err(Fault::Useless(error)) => {
                tracing::debug!(%server, %error, "upstream");
                self.forwarder().upstreams.answered_lame(server, rtt);
                Err(Failure::Lame(None))
            }
        }
    }

    fn is_silent(&self, server: SocketAddr) {
        self.forwarder().upstreams.silent(server, Instant::now());
        self.upstreams_changed.notify_one();
    }
}

/// Why an attempt brought no answer.
enum Failure {
    /// The server answered that it has none.
    Lame(Option<ExtendedError>),
    /// It did not answer.
    Silent,
    /// It was not asked: too much else is.
    NoPlace,
}

/// Tries silent servers again, so that no client has to wait to find out that one is back.
pub(super) async fn probe(shared: Arc<Shared>) -> Infallible {
    let question = Question {
        name: Name::root(),
        query_type: RecordType::NS,
        dnssec_ok: false,
        checking_disabled: false,
    };
    loop {
        let next = shared.forwarder().upstreams.next_probe();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.upstreams_changed.notified() => continue,
        }
        let servers = shared.forwarder().upstreams.due_probes(Instant::now());
        let probes = servers.into_iter().map(|server| {
            let (shared, question) = (&shared, &question);
            async move {
                let start = Instant::now();
                let answer = exchange::ask(server, question, PROBE_LIMIT).await;
                // Any answer will do: it is there.
                if !matches!(answer, Err(Fault::Silent(_))) {
                    shared.forwarder().upstreams.answered(server, start.elapsed());
                    tracing::info!(%server, "upstream answers again");
                }
            }
        });
        futures_util::future::join_all(probes).await;
    }
}

#[cfg(test)]
mod tests;
