//! Location of a story's files: a folder with `story.json`, which records the completed steps, so that an interrupted story can continue;
//! and next to it the folder of a start that several stories share.

use super::script::{StepKind, Story, StoryStep, path_names};
use crate::run_folder::RunLock;
use crate::vfs::{RealFs, display_path, write_whole};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folder to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoryLocation {
    /// A folder with the story's name in this one: an interrupted story is continued, otherwise a new folder is created.
    In(PathBuf),
    /// As `In`, but the results of a completed one with the same steps, seed and version are shown again.
    Kept(PathBuf),
    /// This folder, which must be new, empty, or from this story.
    At(PathBuf),
}

/// The completed steps: the content of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct CompletedSteps {
    story: String,
    /// Hash of the steps, their files, the seed and lehr's version; results are valid only for the same key.
    key: String,
    done: BTreeSet<String>,
}

#[derive(Debug)]
struct ResultFolder {
    dir: PathBuf,
    kept: CompletedSteps,
}

/// The folders of a story.
#[derive(Debug)]
pub struct StoryFolders {
    own: ResultFolder,
    start: Option<ResultFolder>,
    _lock: RunLock,
}

const FILE: &str = "story.json";
/// The included text.
const STORIES: &str = include_str!("../../assets/stories.txt");

impl StoryFolders {
    /// Choose and create the folders, and write the story's files.
    ///
    /// # Errors
    /// A folder with other content, or that cannot be written.
    pub fn open(story: &Story, at: &StoryLocation, seed: u64) -> Result<Self> {
        let own: Vec<&StoryStep> = story.steps().filter(|s| !s.shared).collect();
        let kept = CompletedSteps { story: story.name.clone(), key: key(story, &own, seed), done: BTreeSet::new() };
        let (dir, root) = match at {
            StoryLocation::At(dir) => (dir.clone(), dir.clone()),
            StoryLocation::In(root) => (first_free_folder(root, &kept, &own, false)?, root.clone()),
            StoryLocation::Kept(root) => (first_free_folder(root, &kept, &own, true)?, root.clone()),
        };
        let own = ResultFolder::open(dir, kept)?;
        ensure!(
            !RunLock::is_held(&own.dir),
            "{}: another process plays a story there; choose another folder",
            display_path(&own.dir)
        );
        let lock = RunLock::acquire(&RealFs, &own.dir)?;
        own.save()?;
        for (name, content) in &story.files {
            let path = own.dir.join(file_name(name));
            let content = if content == "@stories" { STORIES } else { content };
            if !path.is_file() {
                write_whole(&path, content.as_bytes())?;
            }
        }
        let shared: Vec<&StoryStep> = story.steps().filter(|s| s.shared).collect();
        let start = match &story.start {
            None => None,
            Some(name) => {
                let key = key(&Story::default(), &shared, seed);
                let dir = root.join(format!("start-{name}-{}", &key[..8]));
                let folder =
                    ResultFolder::open(dir, CompletedSteps { story: format!("start {name}"), key, done: BTreeSet::new() })?;
                folder.save()?;
                Some(folder)
            }
        };
        Ok(Self { own, start, _lock: lock })
    }

    /// The story's folder.
    pub fn dir(&self) -> &Path {
        &self.own.dir
    }

    fn folder(&self, step: &StoryStep) -> &ResultFolder {
        self.start.as_ref().filter(|_| step.shared).unwrap_or(&self.own)
    }

    /// The output of a step: a run folder, a file of rows, a folder, or its standard output.
    pub fn product(&self, step: &StoryStep) -> PathBuf {
        let dir = &self.folder(step).dir;
        match step.kind() {
            StepKind::Trainer | StepKind::Folder => dir.join(&step.stem),
            StepKind::Rows => dir.join(format!("{}.jsonl", step.stem)),
            StepKind::Json => self.printed(step),
        }
    }

    /// File of a step's standard output.
    pub fn printed(&self, step: &StoryStep) -> PathBuf {
        let extension = if step.kind() == StepKind::Rows { "jsonl" } else { "json" };
        self.folder(step).dir.join(format!("{}.{extension}", step.stem))
    }

    /// File of a step's standard error.
    pub fn log(&self, step: &StoryStep) -> PathBuf {
        self.folder(step).dir.join(format!("{}.log", step.stem))
    }

    /// The path for a name in braces in a command line.
    pub fn path_of(&self, story: &Story, name: &str) -> Result<PathBuf> {
        if story.files.contains_key(name) {
            return Ok(self.own.dir.join(file_name(name)));
        }
        let step = story.steps().find(|s| s.name == name).with_context(|| format!("{{{name}}}: nothing makes it"))?;
        Ok(self.product(step))
    }

    /// Whether a step is completed.
    pub fn is_done(&self, step: &StoryStep) -> bool {
        self.folder(step).kept.done.contains(&step.stem)
    }

    /// Record that a step is completed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn done(&mut self, step: &StoryStep) -> Result<()> {
        let folder = match &mut self.start {
            Some(start) if step.shared => start,
            _ => &mut self.own,
        };
        folder.kept.done.insert(step.stem.clone());
        folder.save()
    }

    /// A step's command line with paths and seed filled in.
    ///
    /// # Errors
    /// A name that is not defined.
    pub fn command_line(&self, story: &Story, step: &StoryStep, seed: u64) -> Result<Vec<String>> {
        let fill = |word: &String| -> Result<String> {
            let mut out = word.clone();
            for name in path_names(word)? {
                let value = match story.parameters.get(name) {
                    Some(parameter) => parameter.value.clone(),
                    None if name == "seed" => seed.to_string(),
                    None => self.path_of(story, name)?.display().to_string(),
                };
                out = out.replace(&format!("{{{name}}}"), &value);
            }
            Ok(out)
        };
        step.run.iter().map(fill).collect()
    }
}

impl ResultFolder {
    /// Create it, or continue with the recorded steps.
    fn open(dir: PathBuf, kept: CompletedSteps) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| display_path(&dir))?;
        let found = read(&dir);
        let is_empty = std::fs::read_dir(&dir).with_context(|| display_path(&dir))?.next().is_none();
        match found {
            Some(found) if found.key == kept.key => Ok(Self { dir, kept: found }),
            None if is_empty => Ok(Self { dir, kept }),
            _ => bail!(
                "{}: holds something else (or the same with another seed or version); choose another folder",
                display_path(&dir)
            ),
        }
    }

    fn save(&self) -> Result<()> {
        write_whole(&self.dir.join(FILE), (serde_json::to_string_pretty(&self.kept)? + "\n").as_bytes())
    }
}

fn read(dir: &Path) -> Option<CompletedSteps> {
    serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
}

/// The folder in `root` to use: an interrupted one of this story, with `or_completed` also a completed one, otherwise the first free name.
fn first_free_folder(root: &Path, kept: &CompletedSteps, steps: &[&StoryStep], or_completed: bool) -> Result<PathBuf> {
    for n in 1..10_000 {
        let name = if n == 1 { kept.story.clone() } else { format!("{}-{n}", kept.story) };
        let dir = root.join(name);
        let is_left = |found: &CompletedSteps| or_completed || steps.iter().any(|step| !found.done.contains(&step.stem));
        let usable = read(&dir).is_some_and(|found| found.key == kept.key && is_left(&found)) && !RunLock::is_held(&dir);
        if usable || !dir.exists() {
            return Ok(dir);
        }
    }
    bail!("{}: is full of folders of this story; remove some", display_path(root))
}

/// Whether a story was completed in a folder with its name below `root`, with any seed.
pub fn is_complete(root: &Path, story: &Story) -> bool {
    let own: Vec<&StoryStep> = story.steps().filter(|s| !s.shared).collect();
    let folders = (1..).map(|n| root.join(if n == 1 { story.name.clone() } else { format!("{}-{n}", story.name) }));
    folders.take_while(|dir| dir.is_dir()).any(|dir| {
        read(&dir).is_some_and(|kept| kept.story == story.name && own.iter().all(|step| kept.done.contains(&step.stem)))
    })
}

fn key(story: &Story, steps: &[&StoryStep], seed: u64) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(env!("CARGO_PKG_VERSION"));
    add(&seed.to_string());
    story.files.iter().flat_map(|(name, content)| [name, content]).for_each(|text| add(text));
    for step in steps {
        add(&step.name);
        step.run.iter().for_each(|word| add(word));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_name(name: &str) -> String {
    format!("{name}.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> Story {
        let text = "title = 't'\nabout = 'a'\n[files]\none = 'x'\n[[scene]]\ntitle = 's'\n[[scene.step]]\nname = 'rows'\ndoing = 'd'\n\
                    seconds = 1.0\nrun = ['data', 'math', '--seed={seed}']\n[[scene.step]]\nname = 'raw'\ndoing = 'd'\nseconds = 1.0\n\
                    run = ['pretrain', '--data', '{one}', '--val-data={rows}']\n";
        Story::parse("s", text).unwrap()
    }

    #[test]
    fn an_interrupted_story_is_gone_on_with_and_a_finished_one_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let story = story();
        let steps: Vec<&StoryStep> = story.steps().collect();
        let open = |seed| StoryFolders::open(&story, &StoryLocation::In(dir.path().to_owned()), seed).unwrap();
        let mut first = open(1);
        assert!(first.dir().ends_with("s") && first.dir().join("one.txt").is_file());
        // A folder locked by another process is not used.
        assert!(open(1).dir().ends_with("s-2"));
        first.done(steps[0]).unwrap();
        drop(first);
        let mut again = open(1);
        assert!(again.dir().ends_with("s") && again.is_done(steps[0]) && !again.is_done(steps[1]));
        again.done(steps[1]).unwrap();
        drop(again);
        assert!(open(1).dir().ends_with("s-2"));
        assert!(open(2).dir().ends_with("s-3"), "another seed");
        let kept = StoryFolders::open(&story, &StoryLocation::Kept(dir.path().to_owned()), 1).unwrap();
        assert!(kept.dir().ends_with("s") && steps.iter().all(|step| kept.is_done(step)), "the completed one");
        drop(kept);
        assert!(is_complete(dir.path(), &story));
        assert!(!is_complete(&dir.path().join("s"), &story), "nothing of this story lies there");
        // A given folder must be from the story.
        let at = |name: &str, seed| StoryFolders::open(&story, &StoryLocation::At(dir.path().join(name)), seed);
        assert!(at("s", 1).is_ok());
        assert!(at("s", 2).unwrap_err().to_string().contains("another seed"));
        std::fs::create_dir(dir.path().join("mine")).unwrap();
        std::fs::write(dir.path().join("mine/x"), "").unwrap();
        assert!(at("mine", 1).is_err());
    }

    #[test]
    fn what_depends_on_a_parameter_has_files_of_its_own() {
        let text = "title = 't'\nabout = 'a'\n[parameters.n]\nlabel = 'count'\nvalue = '2'\nchoices = ['2', '4']\n[[scene]]\ntitle = 's'\n\
                    [[scene.step]]\nname = 'rows'\ndoing = 'd'\nseconds = 1.0\nrun = ['data', 'math']\n\
                    [[scene.step]]\nname = 'few'\ndoing = 'd'\nseconds = 1.0\nrun = ['data', 'math', '--count={n}']\n\
                    [[scene.step]]\nname = 'asked'\ndoing = 'd'\nseconds = 1.0\nrun = ['data', 'solve', '{few}']\n";
        let mut story = Story::parse("p", text).unwrap();
        let stems = |story: &Story| story.steps().map(|s| s.stem.clone()).collect::<Vec<_>>();
        assert_eq!(stems(&story), ["rows", "few-n2", "asked-n2"]);
        let dir = tempfile::tempdir().unwrap();
        let mut place = StoryFolders::open(&story, &StoryLocation::At(dir.path().join("w")), 7).unwrap();
        story.clone().steps().for_each(|step| place.done(step).unwrap());
        story.set("n", "4").unwrap();
        assert_eq!(stems(&story), ["rows", "few-n4", "asked-n4"]);
        let steps: Vec<&StoryStep> = story.steps().collect();
        assert!(place.is_done(steps[0]) && !place.is_done(steps[1]) && !place.is_done(steps[2]));
        assert_eq!(place.command_line(&story, steps[1], 7).unwrap(), ["data", "math", "--count=4"]);
        let few = dir.path().join("w/few-n4.jsonl").display().to_string();
        assert_eq!(place.command_line(&story, steps[2], 7).unwrap(), ["data", "solve", &few]);
        assert!(story.set("n", "3").unwrap_err().to_string().contains("must be one of 2, 4"));
        assert!(story.set("m", "2").unwrap_err().to_string().contains("not a parameter"));
    }

    #[test]
    fn names_become_paths() {
        let dir = tempfile::tempdir().unwrap();
        let story = story();
        let place = StoryFolders::open(&story, &StoryLocation::At(dir.path().join("w")), 7).unwrap();
        let steps: Vec<&StoryStep> = story.steps().collect();
        assert_eq!(place.command_line(&story, steps[0], 7).unwrap(), ["data", "math", "--seed=7"]);
        let words = place.command_line(&story, steps[1], 7).unwrap();
        let path = |name: &str| dir.path().join("w").join(name).display().to_string();
        assert_eq!(words, ["pretrain", "--data", &path("one.txt"), &format!("--val-data={}", path("rows.jsonl"))]);
    }
}
