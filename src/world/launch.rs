//! What the environment says of a launcher: how many processes it started, and by whose word.

/// A launcher that started several processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Who, in words.
    pub by: &'static str,
    /// The variable that says so.
    pub variable: &'static str,
    /// How many processes; `None` where the environment does not say.
    pub size: Option<usize>,
}

/// The launcher that started this process as one of several. `LEHR_WORLD=solo` hides it.
pub fn launched() -> Option<Launched> {
    of(|name| std::env::var(name).ok())
}

fn of(get: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    if get("LEHR_WORLD").is_some_and(|word| word == "solo") {
        return None;
    }
    let number = |name: &str| get(name)?.parse::<usize>().ok();
    let by = |by: &'static str, variable: &'static str, size: Option<usize>| Launched { by, variable, size };
    let sized = [("Open MPI", "OMPI_COMM_WORLD_SIZE"), ("an MPI launcher", "PMI_SIZE"), ("MVAPICH", "MV2_COMM_WORLD_SIZE")];
    for (name, variable) in sized {
        if let Some(size) = number(variable) {
            return (size > 1).then(|| by(name, variable, Some(size)));
        }
    }
    // srun says how many tasks a step has; the script of a batch job has the job's number alone, and a rank too.
    if get("SLURM_PROCID").is_some() {
        for variable in ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"] {
            if let Some(size) = number(variable) {
                return (size > 1).then(|| by("Slurm", variable, Some(size)));
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
        let value = self.size.map_or(String::new(), |size| format!("={size}"));
        format!("lehr was started{size} by {} ({}{value})", self.by, self.variable)
    }

    /// Why a binary without MPI does not start.
    pub fn without_mpi(&self) -> String {
        format!(
            "{}, but was built without MPI: each process would train a copy of its own. Build it with `cargo build --release --features \
             mpi`, or start it without a launcher; LEHR_WORLD=solo starts a copy all the same",
            self.found()
        )
    }

    /// Why a library that sees another number of ranks is not used.
    #[cfg_attr(not(all(unix, feature = "mpi")), allow(dead_code, reason = "said of an MPI library"))]
    pub(super) fn other_size(&self, size: usize, library: &str) -> Option<String> {
        let is_same = self.size.is_none_or(|wanted| wanted == size);
        (!is_same).then(|| {
            format!(
                "{}, but its MPI library ({library}) finds {size}: launcher and library do not belong together (with srun, see `srun \
                 --mpi=list`), or this is the script of a batch job, where srun is to start lehr; LEHR_WORLD=solo starts a process by itself",
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
    fn launchers_are_known_by_what_they_set() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "1")]), Some(("Open MPI", Some(4))));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "1"), ("PMIX_RANK", "0")]), None);
        assert_eq!(found(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), Some(("an MPI launcher", Some(2))));
        assert_eq!(found(&[("PMIX_RANK", "0")]), Some(("a PMIx launcher", None)));
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "3")]), Some(("Slurm", Some(8))));
        assert_eq!(found(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), None);
        // An allocation's shell starts nothing by itself.
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "77")]), None);
        assert_eq!(found(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")]), Some(("torchrun", Some(2))));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4"), ("LEHR_WORLD", "solo")]), None);
    }

    #[test]
    fn refusals_are_one_line_with_a_remedy() {
        let launched = Launched { by: "Slurm", variable: "SLURM_NTASKS", size: Some(8) };
        let text = launched.without_mpi();
        assert!(text.contains("one of 8") && text.contains("SLURM_NTASKS=8") && text.contains("--features mpi"), "{text}");
        assert_eq!(launched.other_size(8, "x"), None);
        let text = launched.other_size(1, "MPICH 4").unwrap();
        assert!(text.contains("finds 1") && text.contains("MPICH 4") && !text.contains("  ") && !text.contains('\n'), "{text}");
    }
}
