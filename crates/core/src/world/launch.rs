//! Detection of a launcher by its environment variables.

/// A launcher that started several processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Its name.
    pub by: &'static str,
    /// The variable that was found.
    pub variable: &'static str,
    /// Number of processes; `None` if the environment does not contain it.
    pub size: Option<usize>,
    /// Rank of this process; `None` if the environment does not contain it.
    pub rank: Option<usize>,
    /// Whether this is the script of a Slurm job, which runs once, instead of a step that srun started.
    pub is_batch_script: bool,
}

/// The launcher that started this process as one of several; `None` with `LEHR_WORLD=solo`.
pub fn launched() -> Option<Launched> {
    of(|name| std::env::var(name).ok())
}

fn of(get: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    if get("LEHR_WORLD").is_some_and(|word| word == "solo") {
        return None;
    }
    let number = |name: &str| get(name)?.parse::<usize>().ok();
    let ranks = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID", "PMIX_RANK", "RANK"];
    let rank = ranks.into_iter().find_map(number);
    let by = |by: &'static str, variable: &'static str, size: Option<usize>| Launched {
        by,
        variable,
        size,
        rank,
        is_batch_script: false,
    };
    let sized = [("Open MPI", "OMPI_COMM_WORLD_SIZE"), ("an MPI launcher", "PMI_SIZE"), ("MVAPICH", "MV2_COMM_WORLD_SIZE")];
    for (name, variable) in sized {
        if let Some(size) = number(variable) {
            return (size > 1).then(|| by(name, variable, Some(size)));
        }
    }
    if let Some(rank) = number("SLURM_PROCID") {
        let is_step = get("SLURM_STEP_NUM_TASKS").is_some() || get("SLURM_STEP_ID").is_some() || rank > 0;
        for variable in ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"] {
            if let Some(size) = number(variable) {
                let slurm = by("Slurm", variable, Some(size));
                return (size > 1).then_some(Launched { is_batch_script: !is_step, ..slurm });
            }
        }
    }
    if get("PMIX_RANK").is_some() {
        return Some(by("a PMIx launcher", "PMIX_RANK", None));
    }
    match (number("WORLD_SIZE"), get("RANK"), get("LOCAL_RANK")) {
        (Some(size), Some(_), Some(_)) if size > 1 => Some(by("torchrun", "WORLD_SIZE", Some(size))),
        _ => None,
    }
}

impl Launched {
    fn found(&self) -> String {
        let size = self.size.map_or(String::new(), |size| format!(" as one of {size} processes"));
        let value = self.size.or(self.rank).map_or(String::new(), |number| format!("={number}"));
        format!("lehr was started{size} by {} ({}{value})", self.by, self.variable)
    }

    /// The error of a binary without MPI.
    pub fn without_mpi(&self) -> String {
        format!(
            "{}, but was built without MPI: each process would train its own copy. Build it with `cargo build --release --features mpi`, or \
             start it without a launcher; LEHR_WORLD=solo starts independent processes",
            self.found()
        )
    }

    /// The error of a command that runs in one process.
    pub fn one_process(&self, command: &str) -> String {
        format!(
            "{}, but `{command}` runs in one process: start one (-n 1), or leave the launcher out; LEHR_WORLD=solo starts independent \
             processes",
            self.found()
        )
    }

    /// The error of `--window`.
    pub fn without_window(&self) -> String {
        format!(
            "--window: {}, which may have no display; leave --window out, and watch the run with `lehr app RUN`",
            self.found()
        )
    }

    /// The error of an MPI library that finds another number of ranks, or fewer than this process's rank requires.
    #[cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "needs an MPI library"))]
    pub(super) fn other_size(&self, size: usize, library: &str) -> Option<String> {
        let is_possible = match self.size {
            Some(wanted) => wanted == size,
            None => self.rank.is_none_or(|rank| rank < size),
        };
        (!is_possible).then(|| {
            format!(
                "{}, but its MPI library ({library}) finds {size}: the launcher does not match the library (with srun, see `srun --mpi=list`), \
                 or lehr was started by the batch script itself instead of srun; LEHR_WORLD=solo starts a single process",
                self.found()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(of_environment: &[(&str, &str)]) -> Option<(&'static str, Option<usize>)> {
        let get = |name: &str| of_environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        of(get).map(|launched| (launched.by, launched.size))
    }

    #[test]
    fn launchers_are_detected_by_their_variables() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "1")]), Some(("Open MPI", Some(4))));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "1"), ("PMIX_RANK", "0")]), None);
        assert_eq!(found(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), Some(("an MPI launcher", Some(2))));
        assert_eq!(found(&[("PMIX_RANK", "0")]), Some(("a PMIx launcher", None)));
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "3")]), Some(("Slurm", Some(8))));
        assert_eq!(found(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), None);
        // The shell of an allocation.
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "77")]), None);
        assert_eq!(found(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")]), Some(("torchrun", Some(2))));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("LEHR_WORLD", "solo")]), None);
    }

    #[test]
    fn the_rank_is_that_of_the_launcher() {
        let rank = |variables: &[(&str, &str)]| {
            of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())).unwrap().rank
        };
        // mpirun inside of a Slurm allocation.
        assert_eq!(rank(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "2"), ("SLURM_PROCID", "0")]), Some(2));
        assert_eq!(rank(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]), Some(1));
        assert_eq!(rank(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "3")]), Some(3));
    }

    #[test]
    fn a_batch_script_is_not_a_step() {
        let is_script = |variables: &[(&str, &str)]| {
            of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())).unwrap().is_batch_script
        };
        assert!(is_script(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]));
        assert!(!is_script(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "3")]));
        assert!(!is_script(&[("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "0")]));
    }

    #[test]
    fn errors_are_one_line_with_a_remedy() {
        let launched = Launched { by: "Slurm", variable: "SLURM_NTASKS", size: Some(8), rank: Some(1), is_batch_script: false };
        let text = launched.without_mpi();
        assert!(text.contains("one of 8") && text.contains("SLURM_NTASKS=8") && text.contains("--features mpi"), "{text}");
        let text = launched.one_process("lehr eval");
        assert!(text.contains("one of 8") && text.contains("`lehr eval`") && text.contains("-n 1"), "{text}");
        assert_eq!(launched.other_size(8, "x"), None);
        let text = launched.other_size(1, "MPICH 4").unwrap();
        assert!(text.contains("finds 1") && text.contains("MPICH 4") && !text.contains("  ") && !text.contains('\n'), "{text}");
        let text = launched.without_window();
        assert!(text.starts_with("--window: ") && text.contains("leave --window out") && !text.contains("one process"), "{text}");
        // The size is unknown, but rank 3 is not the only one.
        let of_rank = |rank| Launched {
            by: "a PMIx launcher",
            variable: "PMIX_RANK",
            size: None,
            rank: Some(rank),
            is_batch_script: false,
        };
        assert_eq!((of_rank(0).other_size(1, "x"), of_rank(3).other_size(4, "x")), (None, None));
        let text = of_rank(3).other_size(1, "Open MPI 4").unwrap();
        assert!(text.contains("PMIX_RANK=3") && text.contains("finds 1"), "{text}");
    }
}
