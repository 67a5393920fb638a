//! The bodies of the three passes, in terms of what [`AttentionPlan`] emits.

use super::source::{AttentionPlan, DOUT, KEY, QUERY, VALUE};
use crate::ops::wgsl_text::WgslText;

impl AttentionPlan {
    pub(super) fn forward(&self, t: &mut WgslText) {
        self.place(t);
        self.reach(t);
        for r in 0..self.rows {
            self.load(t, "q", r, "qkv[query_at", "head", " * dims.scale");
            self.start_softmax(t, r);
        }
        self.stream(t, |t| {
            self.dots(t, "s", "q", &KEY);
            self.exchange(t, &["s"]);
            for r in 0..self.rows {
                self.softmax(t, r, 1);
            }
            self.accumulate(t, "acc", "p", &VALUE);
        });
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            t.line(format!("let inverse = 1.0 / max(sum{r}, 1e-30);"));
            self.store(t, "out[out_at", "head", "acc", r, " * inverse");
            t.line(format!("lse[(base + t{r}) * dims.heads + head] = most{r} + log(max(sum{r}, 1e-30));"));
            t.close();
        }
    }

    pub(super) fn start_softmax(&self, t: &mut WgslText, r: usize) {
        self.zero(t, "acc", r);
        t.line(format!("var most{r} = -1e9;"));
        t.line(format!("var sum{r} = 0.0;"));
    }

    /// Online softmax of one row over a chunk of keys `step` apart: rescale what there is once, then weigh.
    pub(super) fn softmax(&self, t: &mut WgslText, r: usize, step: usize) {
        let chunk = 0..self.chunk;
        for c in chunk.clone() {
            t.line(format!("let seen{r}_{c} = j + {}u - begin{r} <= reach{r};", c * step));
            t.line(format!("s{r}_{c} = select(-1e9, s{r}_{c}, seen{r}_{c});"));
        }
        let largest = chunk.clone().fold(format!("most{r}"), |acc, c| format!("max({acc}, s{r}_{c})"));
        t.line(format!("let rise{r} = {largest};"));
        t.line(format!("let shrink{r} = exp_below(most{r} - rise{r});"));
        t.line(format!("most{r} = rise{r};"));
        for c in chunk.clone() {
            t.line(format!("let p{r}_{c} = select(0.0, exp_below(s{r}_{c} - rise{r}), seen{r}_{c});"));
        }
        let weights: Vec<_> = chunk.map(|c| format!("p{r}_{c}")).collect();
        t.line(format!("sum{r} = sum{r} * shrink{r} + ({});", weights.join(" + ")));
        for d in 0..self.part() {
            t.line(format!("acc{r}_{d} *= shrink{r};"));
        }
    }

    pub(super) fn backward_query(&self, t: &mut WgslText) {
        self.place(t);
        self.reach(t);
        for r in 0..self.rows {
            self.load(t, "q", r, "qkv[query_at", "head", " * dims.scale");
            self.load(t, "g", r, "dout[out_at", "head", "");
            self.load(t, "o", r, "out[out_at", "head", "");
            self.zero(t, "dq", r);
            t.line(format!("let lse{r} = lse[(base + t{r}) * dims.heads + head];"));
            let products: Vec<_> = (0..self.part()).map(|d| format!("g{r}_{d} * o{r}_{d}")).collect();
            t.line(format!("var delta{r}_0 = total({});", products.join(" + ")));
        }
        self.exchange_of(t, &(0..self.rows).map(|r| format!("delta{r}_0")).collect::<Vec<_>>());
        self.stream(t, |t| {
            self.dots(t, "s", "q", &KEY);
            self.dots(t, "dp", "g", &VALUE);
            self.exchange(t, &["s", "dp"]);
            for r in 0..self.rows {
                for c in 0..self.chunk {
                    t.line(format!(
                        "let ds{r}_{c} = select(0.0, exp_below(s{r}_{c} - lse{r}) * (dp{r}_{c} - delta{r}_0), j + {c}u - begin{r} <= reach{r});"
                    ));
                }
            }
            self.accumulate(t, "dq", "ds", &KEY);
        });
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            self.store(t, "dqkv[query_at", "head", "dq", r, " * dims.scale");
            t.line(format!("delta[(base + t{r}) * dims.heads + head] = delta{r}_0;"));
            t.close();
        }
    }

    pub(super) fn backward_key(&self, t: &mut WgslText) {
        self.place(t);
        for r in 0..self.rows {
            self.load(t, "k", r, "qkv[key_at", "kv", " * dims.scale");
            self.load(t, "v", r, "qkv[value_at", "kv", "");
            self.zero(t, "dk", r);
            self.zero(t, "dv", r);
        }
        t.open("for (var head = kv * group_size; head < (kv + 1u) * group_size; head++)");
        self.stream(t, |t| {
            self.dots(t, "s", "k", &QUERY);
            self.dots(t, "dp", "v", &DOUT);
            self.exchange(t, &["s", "dp"]);
            for c in 0..self.chunk {
                for name in ["lse", "delta", "reach"] {
                    t.line(format!("let {name}_{c} = {};", self.scalar(name, c)));
                }
                for r in 0..self.rows {
                    t.line(format!("let p{r}_{c} = select(0.0, exp_below(s{r}_{c} - lse_{c}), j + {c}u - t{r} < reach_{c});"));
                    t.line(format!("let ds{r}_{c} = p{r}_{c} * (dp{r}_{c} - delta_{c});"));
                }
            }
            self.accumulate(t, "dk", "ds", &QUERY);
            self.accumulate(t, "dv", "p", &DOUT);
        });
        t.close();
        for r in 0..self.rows {
            t.open(&format!("if own{r}"));
            self.store(t, "dqkv[key_at", "kv", "dk", r, " * dims.scale");
            self.store(t, "dqkv[value_at", "kv", "dv", r, "");
            t.close();
        }
    }
}
