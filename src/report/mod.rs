//! Floor 7: one HTML file that shows runs to people who have no lehr.
