//! Floor 8: the window.
