//! Hearing of a backup until its end, one thread each.
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use super::{Job, Target};
use crate::control::{Client, Request, say};
use crate::util::lock;

/// How often a backup that cannot be heard of yet, or any more, is looked at.
const GLANCE: Duration = Duration::from_millis(5);

impl Target {
    /// Follows a backup to its end: a child of ours, or one that another service has started.
    pub(super) fn follow(self: Arc<Self>, record: Record, mut child: Option<Child>) {
        let mut lives = || match &mut child {
            // That it cannot be asked is no reason to think that it has ended: it is asked again.
            Some(child) => !matches!(child.try_wait(), Ok(Some(_))),
            None => record.lives(),
        };
        let socket = record.file(&self.directory, "sock");
        let client = loop {
            match Client::connect(&socket) {
                Ok(client) => break Some(client),
                Err(_) if lives() => std::thread::sleep(GLANCE),
                Err(_) => break None,
            }
        };
        if let Some(mut client) = client {
            self.introduce(&client);
            // Its end is the end of the connection: the kernel sees to that.
            while let Ok(answer) = client.hear() {
                if let Some(heard) = answer.targets.into_iter().next().and_then(|status| status.running)
                    && let Some(job) = &mut lock(&self.state).running
                {
                    job.heard = Some(heard);
                }
            }
        }
        while lives() {
            std::thread::sleep(GLANCE);
        }
        self.finish(record);
    }

    /// Says what was decided while nobody listened.
    fn introduce(&self, client: &Client) {
        let mut state = lock(&self.state);
        let rate = state.throttle;
        let Some(job) = &mut state.running else { return };
        let Ok(voice) = client.voice() else { return };
        let told = voice.set_read_timeout(None).and_then(|()| say(&voice, &Request::Throttle { target: None, rate }));
        let told = told.and_then(|()| say(&voice, &Request::Follow));
        if let Err(error) = told {
            tracing::debug!("a backup ended at once: {error}");
        }
        let Job { cancelled, voice: place, .. } = job;
        if *cancelled {
            let _ = say(&voice, &Request::Cancel { target: None });
        }
        *place = Some(voice);
    }
}
