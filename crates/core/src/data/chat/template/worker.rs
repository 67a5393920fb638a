//! Runs the engine on a separate thread, which has a stack of known size and can be abandoned; or, without threads, in the caller, with
//! lower recursion limits and fuel as the only time limit.

#[cfg(any(test, target_arch = "wasm32"))]
mod in_line {
    use super::super::engine::{RenderRequest, serve};
    use super::super::limits::Recursion;
    use anyhow::Result;

    /// A template that compiles; each rendering compiles it again, since the compiled form borrows the source.
    pub struct TemplateWorker {
        source: String,
        date: i64,
    }

    impl TemplateWorker {
        /// Compiles the template.
        pub fn start(source: &str, date: i64) -> Result<Self> {
            let worker = Self { source: source.to_owned(), date };
            worker.last_answer(None)?;
            Ok(worker)
        }

        /// Renders a chat.
        pub fn render(&self, request: RenderRequest) -> Result<String> {
            self.last_answer(Some(request))
        }

        fn last_answer(&self, mut request: Option<RenderRequest>) -> Result<String> {
            let mut answer = Ok(String::new());
            serve(&self.source, self.date, Recursion::IN_LINE, |reply| {
                answer = reply;
                request.take()
            });
            answer
        }

        /// Whether this error means that the worker is lost; here it never is.
        #[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "tests run it where there are threads"))]
        pub fn is_abandoned(_: &anyhow::Error) -> bool {
            false
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod threaded {
    use super::super::engine::{RenderRequest, serve};
    use super::super::limits::Recursion;
    use anyhow::{Context, Result, bail};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
    use std::time::Duration;

    /// Time limit of one rendering in seconds.
    const SECONDS: u64 = 60;
    /// The stack of the thread; see [`Recursion::ON_A_THREAD`].
    const STACK: usize = 64 << 20;
    const ABANDONED: &str = "rendering of the chat template was stopped";

    /// A thread that holds the compiled template. It ends when this is dropped; a thread that does not answer runs until its fuel is used
    /// up.
    pub struct TemplateWorker {
        requests: SyncSender<RenderRequest>,
        answers: Receiver<Result<String>>,
    }

    impl TemplateWorker {
        /// Compiles the template.
        pub fn start(source: &str, date: i64) -> Result<Self> {
            let (requests, asked) = sync_channel::<RenderRequest>(1);
            let (tell, answers) = sync_channel(1);
            let source = source.to_owned();
            let work = move || {
                serve(&source, date, Recursion::ON_A_THREAD, |answer| {
                    tell.send(answer).ok()?;
                    asked.recv().ok()
                });
            };
            let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
            thread.spawn(work).context("chat template: no thread for it")?;
            let worker = Self { requests, answers };
            worker.answer()?;
            Ok(worker)
        }

        /// Renders a chat; after an error the worker can still be used, unless [`Self::is_abandoned`].
        pub fn render(&self, request: RenderRequest) -> Result<String> {
            let _ = self.requests.send(request);
            self.answer()
        }

        fn answer(&self) -> Result<String> {
            match self.answers.recv_timeout(Duration::from_secs(SECONDS)) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => bail!("{ABANDONED}: more than {SECONDS} s"),
                Err(RecvTimeoutError::Disconnected) => bail!("{ABANDONED}: the engine failed"),
            }
        }

        /// Whether this error means that the worker is lost.
        pub fn is_abandoned(error: &anyhow::Error) -> bool {
            error.to_string().starts_with(ABANDONED)
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub(super) use in_line::TemplateWorker;
#[cfg(not(target_arch = "wasm32"))]
pub(super) use threaded::TemplateWorker;

#[cfg(test)]
mod tests {
    use super::super::engine::RenderRequest;
    use super::super::limits::steps;
    use super::super::{PLAIN, without_generation_tags};
    use super::*;
    use serde_json::{Map, Value, json};

    fn request() -> RenderRequest {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
        let context =
            Map::from_iter([("messages".to_owned(), messages), ("add_generation_prompt".to_owned(), Value::Bool(true))]);
        RenderRequest { context, steps: steps(2, 100) }
    }

    /// Renders a template on the caller's stack of 1 MiB, as in a browser.
    fn in_line(source: &str) -> Result<String, String> {
        let source = source.to_owned();
        let work = move || {
            let worker = in_line::TemplateWorker::start(&source, 0)?;
            worker.render(request()).and_then(|_| worker.render(request()))
        };
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap();
        thread.join().expect("no panic").map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn inline_and_threaded_rendering_agree() {
        let (plain, _) = without_generation_tags(PLAIN);
        for source in [&*plain, "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}{{ messages | tojson }}"]
        {
            let threaded = threaded::TemplateWorker::start(source, 0).unwrap().render(request()).unwrap();
            assert_eq!(in_line(source), Ok(threaded));
        }
        let error = in_line("{{ raise_exception('no') }}").unwrap_err();
        assert_eq!(error, "the chat template (line 1) refuses it: no");
    }

    /// Templates that would overflow a small stack are refused by name, and those within the limits do not overflow it.
    #[test]
    fn inline_recursion_is_refused_by_name() {
        let branches = |n: usize| format!("{{% if x %}}a{}{{% endif %}}", "{% elif x %}b".repeat(n));
        for (source, wanted) in [
            (format!("{{{{ {}x }}}}", "not ".repeat(300)), "more than 120 operators"),
            (format!("{{{{ 1{} }}}}", "+1".repeat(300)), "more than 120 operators"),
            (branches(30), "more than 25 elif branches"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), "recurs"),
            ("{% for x in [[1]] recursive %}{{ loop([[x]]) }}{% endfor %}".into(), "recurs"),
            ("{% for i in range(3000) %}{% for j in range(3000) %}x{% endfor %}{% endfor %}".into(), "fuel"),
        ] {
            let error = in_line(&source).unwrap_err();
            assert!(error.contains(wanted), "{source}: {error}");
        }
        for (source, wanted) in [
            (format!("{{{{ {}true }}}}", "not ".repeat(100)), "True".to_owned()),
            (format!("{{{{ 1{} }}}}", "+1".repeat(100)), "101".into()),
            (format!("{{{{ 'a'{} }}}}", "~'a'".repeat(100)), "a".repeat(101)),
            (branches(20), String::new()),
            ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}x{% endmacro %}{{ f(5) }}".into(), "xxxxxx".into()),
        ] {
            assert_eq!(in_line(&source), Ok(wanted), "{source}");
        }
    }
}
