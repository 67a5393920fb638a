//! The path of streamed rows to the lanes.

use super::source::{AttentionPass, AttentionPlan, Staging, Stream};
use crate::ops::wgsl_text::WgslText;

impl AttentionPlan {
    /// The loop over streamed rows; `body` sees `j`, the time of the chunk's first row.
    pub(super) fn stream(&self, t: &mut WgslText, body: impl FnOnce(&mut WgslText)) {
        let step = if self.staging == Staging::Shared { self.staged_rows() } else { self.chunk };
        let var = if self.staging == Staging::Shared { "tile" } else { "j" };
        if self.pass == AttentionPass::BackwardKey {
            t.line("// Queries from the first key on, until a document begins that the tile's last key is not in.");
            t.line(format!("let last = first + {}u;", self.tile_rows() - 1));
            t.open(&format!(
                "for (var {var} = first; {var} < dims.time && {var} - positions[base + {var}] <= last; {var} += {step}u)"
            ));
        } else {
            t.line("// Keys from where the first query's document begins.");
            t.line(format!("let end = min(first + {}u, dims.time);", self.tile_rows()));
            t.open(&format!("for (var {var} = first - positions[base + first]; {var} < end; {var} += {step}u)"));
        }
        match self.staging {
            Staging::Direct => self.stage_direct(t),
            Staging::Shared => self.stage_shared(t),
        }
        body(t);
        if self.staging == Staging::Shared {
            t.close();
            t.line("workgroupBarrier();");
        }
        t.close();
    }

    pub(super) fn stage_direct(&self, t: &mut WgslText) {
        for c in 0..self.chunk {
            t.line(format!("let row{c} = base + min(j + {c}u, dims.time - 1u);"));
            for s in self.streams() {
                t.line(format!("let {}{c}_at = {}(row{c}, {});", s.name, s.at, s.head));
            }
        }
    }

    pub(super) fn stage_shared(&self, t: &mut WgslText) {
        let (staged, threads) = (self.staged_rows(), self.threads);
        t.open(&format!("for (var i = local; i < {}u; i += {threads}u)", staged * self.head_dim / 4));
        t.line("let row = base + min(tile + i / D4, dims.time - 1u);");
        for s in self.streams() {
            let place = format!("[i / D4][i % D4 / {0}u][i % {0}u]", self.split);
            t.line(format!("{}_tile{place} = {}[{}(row, {}) + i % D4];", s.name, s.buffer, s.at, s.head));
        }
        t.close();
        if self.pass == AttentionPass::BackwardKey {
            t.open(&format!("for (var i = local; i < {staged}u; i += {threads}u)"));
            t.line("let row = base + min(tile + i, dims.time - 1u);");
            t.line("lse_tile[i] = lse[row * dims.heads + head];");
            t.line("delta_tile[i] = delta[row * dims.heads + head];");
            t.line("reach_tile[i] = select(0u, positions[row] + 1u, tile + i < dims.time);");
            t.close();
        }
        t.line("workgroupBarrier();");
        t.open(&format!("for (var c0 = 0u; c0 < {staged}u; c0 += {}u)", self.chunk));
        t.line("let j = tile + c0;");
    }

    /// vec4 `d` of streamed row `c`.
    pub(super) fn fetch(&self, stream: &Stream, c: usize, d: usize) -> String {
        let Stream { name, buffer, .. } = stream;
        match self.staging {
            Staging::Direct if stream.by_call => format!("load_{name}({name}{c}_at + {d}u)"),
            Staging::Direct => format!("{buffer}[{name}{c}_at + {d}u]"),
            Staging::Shared => {
                let part = if self.split > 1 { "part" } else { "0" };
                format!("{name}_tile[c0 + {c}u][{d}][{part}]")
            }
        }
    }

    /// A number that belongs to streamed row `c`.
    pub(super) fn scalar(&self, name: &str, c: usize) -> String {
        match (self.staging, name) {
            (Staging::Direct, "reach") => format!("select(0u, positions[row{c}] + 1u, j + {c}u < dims.time)"),
            (Staging::Direct, _) => format!("{name}[row{c} * dims.heads + head]"),
            (Staging::Shared, _) => format!("{name}_tile[c0 + {c}u]"),
        }
    }
}
