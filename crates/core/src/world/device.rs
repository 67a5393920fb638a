//! Device of a rank: one GPU by local rank, or an equal part of the CPU's threads.

use super::World;
use crate::config::DeviceSettings;
use crate::device::{Kind, adapters};
use anyhow::{Result, ensure};

impl World {
    /// Device settings of this rank. Settings by flag or environment variable take precedence.
    ///
    /// # Errors
    /// More ranks than GPUs on a host, without `--adapter`.
    pub fn device(&self, settings: &DeviceSettings) -> Result<DeviceSettings> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut own = settings.clone();
        if self.local_size() == 1 {
            return Ok(own);
        }
        if own.adapter.is_none() && !is_set("LEHR_ADAPTER") {
            let gpus: Vec<usize> = adapters().iter().filter(|a| a.kind == Kind::Gpu).map(|a| a.index).collect();
            // With these, Slurm makes only the GPUs of a task visible to it.
            let is_bound = is_set("SLURM_GPUS_PER_TASK") || is_set("SLURM_TRES_PER_TASK");
            own.adapter = choose(&gpus, self.local_rank(), self.local_size(), is_bound, &self.name(self.rank()))?;
        }
        if own.threads.is_none() && !is_set("LEHR_THREADS") {
            own.threads = Some((num_cpus::get_physical() / self.local_size()).max(1));
        }
        Ok(own)
    }
}

/// The index of a rank's GPU; `None` without GPUs.
fn choose(gpus: &[usize], local_rank: usize, local_size: usize, is_bound: bool, name: &str) -> Result<Option<String>> {
    let Some(most) = std::num::NonZeroUsize::new(gpus.len()) else { return Ok(None) };
    ensure!(
        is_bound || local_size <= most.get(),
        "{name}: {local_size} ranks on a host with {most} GPU(s); start at most {most} per host, or set --adapter to share one"
    );
    Ok(Some(gpus[local_rank % most].to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_take_one_gpu_each() {
        assert_eq!(choose(&[], 1, 4, false, "").unwrap(), None);
        let indices = [0, 1, 2].map(|rank| choose(&[0, 2, 3], rank, 3, false, "").unwrap().unwrap());
        assert_eq!(indices, ["0", "2", "3"]);
        let text = choose(&[0, 1], 0, 3, false, "rank 0 on a").unwrap_err().to_string();
        assert!(text.contains("3 ranks") && text.contains("at most 2"), "{text}");
        assert_eq!(choose(&[0], 1, 2, true, "").unwrap().unwrap(), "0");
    }
}
