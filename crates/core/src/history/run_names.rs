//! Names of several runs: the same in window and report.

use super::short_name;
use std::path::Path;

/// A distinct name for each run: that of its folder; equal ones preceded by the name of the folder above, and followed by a number if they
/// are still equal.
pub fn distinct_names<P: AsRef<Path>>(paths: &[P]) -> Vec<String> {
    let mut names: Vec<String> = paths.iter().map(|path| short_name(path.as_ref())).collect();
    for round in 0..2 {
        let before = names.clone();
        for (i, name) in names.iter_mut().enumerate() {
            if before.iter().filter(|other| *other == name).count() < 2 {
                continue;
            }
            let folder = paths[i].as_ref().parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy().into_owned());
            *name = match folder.filter(|_| round == 0) {
                Some(folder) => format!("{folder}/{name}"),
                None => format!("{name} ({})", i + 1),
            };
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_get_their_folder_then_a_number() {
        let paths = ["x/a", "y/a", "x/b", "p/q/c", "r/q/c"];
        assert_eq!(distinct_names(&paths), ["x/a", "y/a", "b", "q/c (4)", "q/c (5)"]);
        assert_eq!(distinct_names(&["a"]), ["a"]);
    }
}
