//! Events of a run as marks on the axis of every chart.

use crate::event::Event;
use crate::number_format::count;

/// Kind of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// The run started, or resumed after a stop.
    Start,
    /// A checkpoint was saved.
    Save,
    /// A merge was written.
    Merge,
    /// The run was rolled back to good weights.
    Rescue,
    /// A live setting was changed.
    LiveSettings,
    /// The run was paused.
    Pause,
    /// A warning.
    Warning,
    /// The run ended.
    End,
}

/// A mark on the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// Number of updates.
    pub step: u64,
    /// The row of the run's clock.
    pub row: u32,
    /// Its kind.
    pub kind: PinKind,
    /// One line.
    pub text: String,
}

/// The mark of an event, if any: the step (if the event has one), the kind and the text.
pub(super) fn pin(event: &Event) -> Option<(Option<u64>, PinKind, String)> {
    Some(match event {
        Event::Started(s) if s.step == 0 => (Some(0), PinKind::Start, "started".into()),
        Event::Started(s) if s.parent.as_ref().is_some_and(|parent| parent.ends_with(&format!("@{}", s.step))) => {
            (Some(s.step), PinKind::Start, format!("forked from {}", s.parent.as_deref().unwrap_or_default()))
        }
        Event::Started(s) => (Some(s.step), PinKind::Start, format!("resumed from step {}", count(s.step))),
        Event::Checkpoint(c) => (Some(c.step), PinKind::Save, format!("saved step {}", count(c.step))),
        Event::Merged(m) if m.path.is_some() => {
            (Some(m.step), PinKind::Merge, format!("merged {} checkpoints, {}", m.steps.len(), m.method))
        }
        Event::Rescue(r) => {
            (Some(r.step), PinKind::Rescue, format!("{}: back to step {} ({})", r.cause, count(r.to_step), r.method))
        }
        Event::HyperChanged { step, name, before, after } => {
            let name = setting_in_words(name);
            (Some(*step), PinKind::LiveSettings, format!("{name}: {before} to {after}, from step {} on", count(step + 1)))
        }
        Event::Paused { step } => (Some(*step), PinKind::Pause, "paused".into()),
        Event::Warning { text } => (None, PinKind::Warning, text.clone()),
        Event::Finished(f) => (Some(f.step), PinKind::End, f.reason.clone()),
        Event::Failed { text } => (None, PinKind::End, format!("failed: {text}")),
        _ => return None,
    })
}

/// Display name of a live setting.
fn setting_in_words(name: &str) -> &str {
    match name {
        "learning_rate_scale" => "learning rate ×",
        "max_grad_norm" => "gradients clipped at",
        "reweight_alpha" => "reweighting alpha",
        "lopti_eta" => "Lopti eta",
        other => other,
    }
}
