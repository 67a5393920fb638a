//! The arrangement of the pages: runs at the left, controls at the right, the others as tabs between; each can be dragged elsewhere.

use super::panels::PageSet;
use super::state::{AppState, Page};
use eframe::egui::{self, Ui};
use egui_tiles::{Behavior, Container, Linear, LinearDir, SimplificationOptions, TileId, Tiles, Tree, UiResponse};

/// Pages in the order of their number keys.
pub const PAGES: [Page; 7] = [Page::Charts, Page::Tokens, Page::Samples, Page::Merge, Page::Inside, Page::NewRun, Page::Lessons];

/// Narrower than this, all pages are tabs.
const NARROW: f32 = 760.0;

/// The default layout.
pub fn first() -> Tree<Page> {
    let mut tiles = Tiles::default();
    let panes: Vec<TileId> = PAGES.iter().map(|page| tiles.insert_pane(*page)).collect();
    let middle = tiles.insert_tab_tile(panes);
    let runs = tiles.insert_pane(Page::Runs);
    let controls = tiles.insert_pane(Page::Controls);
    let mut row = Linear::new(LinearDir::Horizontal, vec![runs, middle, controls]);
    row.shares.set_share(runs, 1.1);
    row.shares.set_share(middle, 3.0);
    row.shares.set_share(controls, 0.95);
    let root = tiles.insert_container(Container::Linear(row));
    Tree::new(egui::Id::unique("pages"), root, tiles)
}

/// Whether each page is there once: a layout of another version may lack some.
pub fn is_whole(tree: &Tree<Page>) -> bool {
    let mut found: Vec<Page> =
        tree.tiles.tiles().filter_map(|t| if let egui_tiles::Tile::Pane(p) = t { Some(*p) } else { None }).collect();
    let mut wanted: Vec<Page> = PAGES.into_iter().chain([Page::Runs, Page::Controls]).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    found == wanted && tree.root().is_some()
}

/// Where the page of a narrow window is kept.
fn narrow() -> egui::Id {
    egui::Id::unique("narrow page")
}

/// Bring a page to the front, in wide windows and in narrow ones.
pub fn show(tree: &mut Tree<Page>, ctx: &egui::Context, page: Page) {
    tree.make_active(|_, tile| matches!(tile, egui_tiles::Tile::Pane(p) if *p == page));
    ctx.data_mut(|d| d.insert_temp(narrow(), page));
}

/// Draw the pages.
pub fn ui(ui: &mut Ui, tree: &mut Tree<Page>, panels: &mut PageSet, state: &mut AppState) {
    let mut pages = Pages { panels, state };
    let mut current = ui.data(|d| d.get_temp::<Page>(narrow())).unwrap_or(Page::Charts);
    if ui.available_width() >= NARROW {
        tree.ui(&mut pages, ui);
        // A window that becomes narrow, by a larger type perhaps, stays on its page.
        let shown: Vec<Page> = tree.active_tiles().into_iter().filter_map(|id| tree.tiles.get_pane(&id).copied()).collect();
        if let Some(page) = shown.iter().find(|page| PAGES.contains(page)).filter(|_| !shown.contains(&current)) {
            ui.data_mut(|d| d.insert_temp(narrow(), *page));
        }
        return;
    }
    // All as tabs, in the layout of wide windows as it is.
    let before = current;
    // In two rows if need be: the bar of a row that scrolls would lie over the tabs, and take their clicks.
    ui.horizontal_wrapped(|ui| {
        for page in [Page::Runs, Page::Controls].into_iter().chain(PAGES) {
            ui.selectable_value(&mut current, page, page.title());
        }
    });
    if current != before {
        show(tree, ui.ctx(), current);
    }
    ui.separator();
    pages.panels.ui(current, ui, pages.state);
}

struct Pages<'a> {
    panels: &'a mut PageSet,
    state: &'a mut AppState,
}

impl Behavior<Page> for Pages<'_> {
    fn pane_ui(&mut self, ui: &mut Ui, _tile: TileId, page: &mut Page) -> UiResponse {
        egui::Frame::new().inner_margin(8).show(ui, |ui| {
            ui.set_min_size(ui.available_size());
            self.panels.ui(*page, ui, self.state);
        });
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, page: &Page) -> egui::WidgetText {
        page.title().into()
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions { all_panes_must_have_tabs: true, ..SimplificationOptions::default() }
    }

    fn min_size(&self) -> f32 {
        160.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layout_has_every_page_and_survives_being_remembered() {
        let tree = first();
        assert!(is_whole(&tree));
        let back: Tree<Page> = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
        assert!(is_whole(&back));
        let mut tiles = Tiles::default();
        let root = tiles.insert_pane(Page::Charts);
        assert!(!is_whole(&Tree::new(egui::Id::unique("pages"), root, tiles)));
    }
}
