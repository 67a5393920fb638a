//! Fields for paths: typed, or chosen in the desktop's file dialog. The dialog runs on a thread; the path can be typed meanwhile.

use super::loader::Loader;
use eframe::egui::{self, Context, Id, Response, RichText, Ui};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nobody dismisses a dialog sooner: an empty answer before is a desktop that has none.
const DISMISSED: Duration = Duration::from_millis(700);
/// Width of the button, with the space before it.
const BUTTON: f32 = 69.0;

/// Kind of path in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// A file.
    File,
    /// Files and folders, joined by commas.
    Data,
    /// A model: a folder or a file.
    Model,
    /// A folder.
    Folder,
    /// A folder that need not exist: the dialog chooses the folder around it.
    NewFolder,
}

/// Kind of a file dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choose {
    /// A file.
    File,
    /// One or more files.
    Files,
    /// A folder.
    Folder,
}

/// Result of a file dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// These paths.
    Paths(Vec<PathBuf>),
    /// It was dismissed.
    Nothing,
    /// There is none here: why, and what to do.
    Unavailable(String),
}

/// Shows a dialog that begins in a folder and waits for its answer.
pub type Dialog = Arc<dyn Fn(Choose, Option<PathBuf>) -> Chosen + Send + Sync>;

/// Appearance of a field.
#[derive(Clone, Copy, Debug)]
pub struct PathField<'a> {
    /// Its kind of path.
    pub kind: PathKind,
    /// Its accessible name, distinct among the fields of a page.
    pub label: &'a str,
    /// Shown while it is empty.
    pub hint: &'a str,
    /// Width in points, with the button.
    pub width: f32,
}

#[derive(Default)]
struct State {
    loader: Loader<Chosen>,
    trouble: Option<String>,
}

impl PathKind {
    fn offers(self) -> &'static [(&'static str, Choose)] {
        match self {
            Self::File => &[("Browse", Choose::File)],
            Self::Data => &[("Files", Choose::Files), ("A folder", Choose::Folder)],
            Self::Model => &[("A folder", Choose::Folder), ("A file", Choose::File)],
            Self::Folder | Self::NewFolder => &[("Browse", Choose::Folder)],
        }
    }

    /// The field's text after this choice.
    fn with(self, text: &str, paths: &[PathBuf]) -> String {
        let chosen: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let name = Path::new(text.trim()).file_name();
        match (self, name, paths.first()) {
            (Self::Data, _, _) if !text.trim().is_empty() => format!("{},{}", text.trim(), chosen.join(",")),
            (Self::NewFolder, Some(name), Some(around)) => around.join(name).display().to_string(),
            _ => chosen.join(","),
        }
    }
}

/// Use another dialog in this window, as tests do.
pub fn set_dialog(ctx: &Context, dialog: Dialog) {
    ctx.data_mut(|data| data.insert_temp(Id::unique("file dialog"), dialog));
}

/// Draw a field; its response has changed after an input or a choice.
pub fn path_ui(ui: &mut Ui, text: &mut String, field: PathField<'_>) -> Response {
    let id = ui.scope_id().with(("path", field.label));
    let state = ui.data_mut(|data| data.get_temp_mut_or_default::<Arc<Mutex<State>>>(id).clone());
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut is_chosen = false;
    match state.loader.take() {
        Some(Chosen::Paths(paths)) => {
            *text = field.kind.with(text, &paths);
            is_chosen = true;
        }
        Some(Chosen::Unavailable(why)) => state.trouble = Some(why),
        Some(Chosen::Nothing) | None => {}
    }
    let mut width = field.width;
    if ui.layout().main_wrap() {
        if ui.available_size_before_wrap().x < width {
            ui.end_row();
        }
        width = width.min(ui.available_size_before_wrap().x);
    }
    let response = ui.vertical(|ui| {
        let response = ui.horizontal(|ui| {
            let edit = egui::TextEdit::singleline(text).hint_text(field.hint);
            let mut response = ui.add_sized([(width - BUTTON).max(40.0), 20.0], edit);
            if let Some(choose) = ui.add_enabled_ui(!state.loader.is_busy(), |ui| button_ui(ui, field)).inner {
                open(ui.ctx(), &mut state, choose, text);
            }
            if is_chosen {
                response.mark_changed();
            }
            response
        });
        if let Some(why) = &state.trouble {
            ui.set_max_width(width);
            ui.add(egui::Label::new(RichText::new(why).small().color(ui.visuals().warn_fg_color)).wrap());
        }
        response.inner
    });
    if response.inner.changed() {
        state.trouble = None;
    }
    response.inner
}

fn button_ui(ui: &mut Ui, field: PathField<'_>) -> Option<Choose> {
    let name = format!("Browse for {}", field.label);
    match field.kind.offers() {
        [(word, choose)] => ui.button(*word).accessible_name(name).clicked().then_some(*choose),
        offers => {
            let mut chosen = None;
            let menu = ui.menu_button("Browse", |ui| {
                for (word, choose) in offers {
                    if ui.button(*word).clicked() {
                        chosen = Some(*choose);
                        ui.close();
                    }
                }
            });
            menu.response.accessible_name(name);
            chosen
        }
    }
}

fn open(ctx: &Context, state: &mut State, choose: Choose, text: &str) {
    state.trouble = None;
    let dialog =
        ctx.data(|data| data.get_temp::<Dialog>(Id::unique("file dialog"))).unwrap_or_else(|| Arc::new(desktop) as Dialog);
    let typed = PathBuf::from(text.rsplit(',').next().unwrap_or(text).trim());
    state.loader.start(ctx, move || Some(dialog(choose, initial_folder(&typed))));
}

/// The folder in which a dialog begins: what was typed, or the nearest folder above it that exists.
fn initial_folder(typed: &Path) -> Option<PathBuf> {
    let typed = std::path::absolute(typed).ok()?;
    typed.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// The desktop's own dialog.
fn desktop(choose: Choose, folder: Option<PathBuf>) -> Chosen {
    const REMEDY: &str = "type the path, or install xdg-desktop-portal or zenity";
    if !has_dialog() {
        return Chosen::Unavailable(format!("There is no file dialog here: {REMEDY}."));
    }
    let begin = Instant::now();
    let dialog = rfd::FileDialog::new();
    let dialog = if let Some(folder) = folder { dialog.set_directory(folder) } else { dialog };
    let found = match choose {
        Choose::File => dialog.pick_file().map(|path| vec![path]),
        Choose::Files => dialog.pick_files(),
        Choose::Folder => dialog.pick_folder().map(|path| vec![path]),
    };
    match found.filter(|paths| !paths.is_empty()) {
        Some(paths) => Chosen::Paths(paths),
        None if cfg!(all(unix, not(target_vendor = "apple"))) && begin.elapsed() < DISMISSED => {
            Chosen::Unavailable(format!("The desktop did not open its file dialog: {REMEDY}."))
        }
        None => Chosen::Nothing,
    }
}

/// Whether a dialog can be there at all: on Linux and the BSDs through the session's D-Bus, or by zenity.
fn has_dialog() -> bool {
    if !cfg!(all(unix, not(target_vendor = "apple"))) {
        return true;
    }
    let bus = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some_and(|address| !address.is_empty())
        || std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| Path::new(&dir).join("bus").exists());
    let folders = std::env::var_os("PATH").unwrap_or_default();
    bus || std::env::split_paths(&folders).any(|dir| dir.join("zenity").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_replaces_is_added_or_becomes_the_folder_around() {
        let paths = ["/a/b.txt", "/a/c.txt"].map(PathBuf::from);
        assert_eq!(PathKind::Data.with("", &paths), "/a/b.txt,/a/c.txt");
        assert_eq!(PathKind::Data.with("x.txt", &paths[..1]), "x.txt,/a/b.txt");
        assert_eq!(PathKind::File.with("x.txt", &paths[..1]), "/a/b.txt");
        assert_eq!(
            PathKind::NewFolder.with("runs/base-merged", &["/d".into()]),
            Path::new("/d/base-merged").display().to_string()
        );
        assert_eq!(PathKind::NewFolder.with("", &["/d".into()]), "/d");
    }

    #[test]
    fn a_dialog_begins_where_something_exists() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(initial_folder(&dir.path().join("none/deeper")).as_deref(), Some(dir.path()));
        assert_eq!(initial_folder(dir.path()).as_deref(), Some(dir.path()));
    }
}
