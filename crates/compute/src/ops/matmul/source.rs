//! WGSL text of one matrix product kernel: bindings, loads, stores. The two loop bodies are in `register.rs` and `shared.rs`.
//!
//! Register tiles are unrolled in the text, because loops over private arrays are five to ten times slower on software adapters
//! (figures in LOG.md); that is why these kernels are generated and not written.

use crate::device::{CooperativeMatrix, ElementType, reflect::COOPERATIVE};
use crate::ops::wgsl_text::WgslText;

/// Invocations of a register-tile workgroup: the vector width that lavapipe and WARP compile for.
pub const LANES: usize = 8;

/// The product, which decides the storage of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `y[r, n] = sum over k of x[r, k] w[n, k]`
    Forward,
    /// `dx[r, k] = sum over n of dy[r, n] w[n, k]`
    BackwardInput,
    /// `dw[n, k] = sum over r of dy[r, n] x[r, k]`
    BackwardWeight,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forward, Self::BackwardInput, Self::BackwardWeight];

    /// Name of the entry point.
    pub fn entry(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::BackwardInput => "backward_input",
            Self::BackwardWeight => "backward_weight",
        }
    }

    /// Binding names of the left operand, the right operand and the result.
    pub fn names(self) -> [&'static str; 3] {
        match self {
            Self::Forward => ["x", "w", "y"],
            Self::BackwardInput => ["dy", "w", "dx"],
            Self::BackwardWeight => ["dy", "x", "dw"],
        }
    }

    /// Neighbours of the left operand in memory differ in the summed index (else in the row of the result).
    pub fn left_along_depth(self) -> bool {
        self != Self::BackwardWeight
    }

    /// Neighbours of the right operand in memory differ in the summed index (else in the column of the result).
    pub fn right_along_depth(self) -> bool {
        self == Self::Forward
    }
}

/// The path of a kernel's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFamily {
    /// Every invocation loads its register tile's operands straight from storage.
    Direct,
    /// Slabs of both operands go through workgroup memory: 16 x 16 invocations.
    Shared,
    /// As `Shared`, rounded to f16 and multiplied by cooperative matrices of this shape, with f32 sums.
    Cooperative(CooperativeMatrix),
}

/// A family and the rows and columns of the result that one invocation owns; in the `Cooperative` family, one subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterTile {
    /// The path of the operands.
    pub family: KernelFamily,
    /// Rows in registers.
    pub rows: usize,
    /// Columns in registers.
    pub cols: usize,
}

impl RegisterTile {
    /// A tile; dimensions are multiples of 4.
    pub const fn new(family: KernelFamily, rows: usize, cols: usize) -> Self {
        Self { family, rows, cols }
    }

    /// `direct16x8`, `cooperative32x32_16_64`
    pub fn name(self) -> String {
        let family = match self.family {
            KernelFamily::Direct => "direct",
            KernelFamily::Shared => "shared",
            KernelFamily::Cooperative(CooperativeMatrix { edge, lanes }) => {
                return format!("cooperative{}x{}_{edge}_{lanes}", self.rows, self.cols);
            }
        };
        format!("{family}{}x{}", self.rows, self.cols)
    }

    /// Rows and columns of the result that one workgroup owns.
    pub fn block(self) -> [usize; 2] {
        match self.family {
            KernelFamily::Direct => [self.rows, LANES * self.cols],
            KernelFamily::Shared => [super::shared::EDGE * self.rows, super::shared::EDGE * self.cols],
            KernelFamily::Cooperative(_) => super::cooperative::block(self),
        }
    }

    /// Whether operands are rounded to f16.
    pub fn is_cooperative(self) -> bool {
        matches!(self.family, KernelFamily::Cooperative(_))
    }

    /// Summed indices of a slab of a `Shared` tile: as many as fit in 16 KiB of workgroup memory, which every adapter has.
    pub(super) fn depth(self) -> usize {
        if self.rows * self.cols > 32 { 8 } else { 16 }
    }

    /// Loop iterations of an invocation for sums of `depth` terms.
    pub fn iterations(self, depth: usize) -> usize {
        match self.family {
            // Vectors of 4, up to 3 single terms, and the rows that are stored.
            KernelFamily::Direct => depth.div_ceil(4) + 3 + self.rows,
            // Slabs.
            KernelFamily::Shared => depth.div_ceil(self.depth()),
            KernelFamily::Cooperative(_) => super::cooperative::iterations(self, depth),
        }
    }
}

/// The epilogue: the treatment of the sums when they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// result = sums
    Store,
    /// result += sums
    Add,
    /// result = sums + bias of the column
    Bias,
    /// result = sums + residual, a matrix like the result
    Residual,
    /// The sums are the gradient of SwiGLU's output: the result is that of its input, twice as wide. shaders/swiglu.wgsl
    Swiglu,
    /// The sums of one part of the depth, to a matrix of that part's own: `parts[z]`. Another kernel adds them up.
    Part,
}

/// Everything that decides a kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The product.
    pub role: Role,
    /// The tile.
    pub tile: RegisterTile,
    /// The epilogue of the sums.
    pub epilogue: Epilogue,
    /// Storage of the right operand: 16-bit types are bound as words, two numbers each.
    pub right: ElementType,
    /// Left, right and result are bound as `vec4<f32>` (strides are multiples of 4), else as `f32`.
    pub vec4: [bool; 3],
    /// The number of columns is not a multiple of 4 although the stride is: the last `vec4` of a row is stored in part.
    pub ragged: bool,
    /// The summed index is not a multiple of 4: the last terms come one at a time.
    pub tail: bool,
}

impl Variant {
    /// Unique name of the text, also in profiles.
    pub fn stem(&self) -> String {
        let epilogue = match self.epilogue {
            Epilogue::Store => "",
            Epilogue::Add => "_add",
            Epilogue::Bias => "_bias",
            Epilogue::Residual => "_residual",
            Epilogue::Swiglu => "_swiglu",
            Epilogue::Part => "_part",
        };
        let scalar: String =
            self.vec4.iter().zip(self.role.names()).filter(|(v, _)| !**v).map(|(_, n)| format!("_{n}1")).collect();
        let ragged = if self.ragged { "_ragged" } else { "" };
        let tail = if self.tail { "_tail" } else { "" };
        let stored = self.right.suffix();
        format!("matmul_{}{epilogue}{stored}{scalar}{ragged}{tail}", self.tile.name())
    }

    /// The WGSL text. Its entry point is named after the role.
    pub fn source(&self) -> String {
        let mut t = WgslText::default();
        if self.tile.is_cooperative() {
            // Directives precede everything else.
            t.line("enable f16;");
            t.line(COOPERATIVE);
        }
        if self.right != ElementType::F32 {
            t.line(format!("#import {}", &self.right.suffix()[1..]));
        }
        self.header(&mut t);
        match self.tile.family {
            KernelFamily::Direct => super::register::body(&mut t, self),
            KernelFamily::Shared => super::shared::body(&mut t, self),
            KernelFamily::Cooperative(matrix) => super::cooperative::body(&mut t, self, matrix),
        }
        t.text
    }

    fn header(&self, t: &mut WgslText) {
        let [left, right, _] = self.role.names();
        let out = self.out_name();
        let formula = match self.role {
            Role::Forward => "y[r, n] = sum over k of x[r, k] w[n, k]: rows r, cols n, depth k",
            Role::BackwardInput => "dx[r, k] = sum over n of dy[r, n] w[n, k]: rows r, cols k, depth n",
            Role::BackwardWeight => "dw[n, k] = sum over r of dy[r, n] x[r, k]: rows n, cols k, depth r",
        };
        let [block_rows, block_cols] = self.tile.block();
        let owner = if self.tile.is_cooperative() { "a subgroup" } else { "an invocation" };
        t.line(format!("// {formula}. Generated by src/ops/matmul: {}.", self.stem()));
        t.line(format!(
            "// A workgroup owns {block_rows} x {block_cols} of {out}, {owner} {} x {}.",
            self.tile.rows, self.tile.cols
        ));
        t.line("struct Dims {");
        for (field, _) in <super::Dims as crate::device::Uniform>::FIELDS {
            t.line(format!("{field}: u32,"));
        }
        if self.epilogue == Epilogue::Part {
            t.line("span: u32,");
        }
        t.line("}");
        t.line("");
        let kind = |vec4: bool| if vec4 { "array<vec4<f32>>" } else { "array<f32>" };
        t.line("@group(0) @binding(0) var<uniform> dims: Dims;");
        t.line(format!("@group(0) @binding(1) var<storage, read> {left}: {};", kind(self.vec4[0])));
        let right_kind = match (self.right, self.vec4[1]) {
            (ElementType::F32, vec4) => kind(vec4),
            (_, true) => "array<vec2<u32>>",
            (_, false) => "array<u32>",
        };
        t.line(format!("@group(0) @binding(2) var<storage, read> {right}: {right_kind};"));
        t.line(format!("@group(0) @binding(3) var<storage, read_write> {out}: {};", kind(self.vec4[2])));
        match self.epilogue {
            Epilogue::Store | Epilogue::Add | Epilogue::Part => {}
            Epilogue::Bias => t.line(format!("@group(0) @binding(4) var<storage, read> bias: {};", kind(true))),
            Epilogue::Residual => {
                t.line(format!("@group(0) @binding(4) var<storage, read> residual: {};", kind(self.vec4[2])));
            }
            Epilogue::Swiglu => t.line(format!("@group(0) @binding(4) var<storage, read> gate_up: {};", kind(true))),
        }
        if self.tile.is_cooperative() && super::cooperative::is_scaled(self.role) {
            super::cooperative::declare_maxima(t);
        }
        t.line("");
        let f32 = ElementType::F32;
        load(t, left, (self.vec4[0], f32), if self.role.left_along_depth() { "depth" } else { "rows" });
        load(t, right, (self.vec4[1], self.right), if self.role.right_along_depth() { "depth" } else { "cols" });
        self.put(t);
    }

    /// Binding name of the output.
    fn out_name(&self) -> &'static str {
        match self.epilogue {
            Epilogue::Part => "parts",
            Epilogue::Swiglu => "dgate_up",
            _ => self.role.names()[2],
        }
    }

    /// The store of four neighbouring columns.
    fn put(&self, t: &mut WgslText) {
        if self.epilogue == Epilogue::Swiglu {
            t.text.push_str(PUT_SWIGLU);
            return;
        }
        let out = self.out_name();
        let added = match self.epilogue {
            Epilogue::Store | Epilogue::Bias | Epilogue::Part | Epilogue::Swiglu => None,
            Epilogue::Add => Some(out),
            Epilogue::Residual => Some("residual"),
        };
        let plus = |at: &str| added.map_or(String::new(), |name| format!(" + {name}[{at}]"));
        let single = |t: &mut WgslText| t.line(format!("{out}[at] = value{};", plus("at")));
        t.line("// The only store: nothing outside of the result is written, padding columns included.");
        let (part, line) = match self.epilogue {
            Epilogue::Part => ("part: u32, ", "(part * dims.rows + row)"),
            _ => ("", "row"),
        };
        t.line(format!("fn put({part}row: u32, col: u32, value: vec4<f32>) {{"));
        if self.vec4[2] {
            t.line("if row < dims.rows && col < dims.cols {");
            t.line(format!("let at = ({line} * dims.out_stride + col) >> 2u;"));
            if self.ragged {
                t.line("let inside = vec4<u32>(col, col + 1u, col + 2u, col + 3u) < vec4<u32>(dims.cols);");
                t.line(format!("{out}[at] = select({out}[at], value{}, inside);", plus("at")));
            } else {
                single(t);
            }
            t.line("}");
        } else {
            t.line(format!("let at = {line} * dims.out_stride + col;"));
            for (i, x) in XYZW.iter().enumerate() {
                t.line(format!("if row < dims.rows && col + {i}u < dims.cols {{"));
                t.line(format!("{out}[at + {i}u] = value.{x}{};", plus(&format!("at + {i}u"))));
                t.line("}");
            }
        }
        t.line("}");
        t.line("");
    }
}

/// The gate lies in the first columns, up in as many behind them; the number of columns is a multiple of 4.
const PUT_SWIGLU: &str = "\
#import sigmoid
// The only store: nothing outside of the result is written.
fn put(row: u32, col: u32, value: vec4<f32>) {
    if row < dims.rows && col < dims.cols {
        let at = (row * dims.out_stride + col) >> 2u;
        let up = at + (dims.cols >> 2u);
        let gate = gate_up[at];
        let s = sigmoid(gate);
        dgate_up[at] = value * gate_up[up] * s * (vec4<f32>(1.0) + gate * (vec4<f32>(1.0) - s));
        dgate_up[up] = value * gate * s;
    }
}

";

pub(super) const XYZW: [char; 4] = ['x', 'y', 'z', 'w'];

/// A function that reads four neighbours of a stored row, never outside of it.
fn load(t: &mut WgslText, name: &str, (vec4, element): (bool, ElementType), extent: &str) {
    t.line(format!("// Elements col .. col + 3 of the stored row of {name} that begins at `start`."));
    t.line(format!("fn load_{name}(start: u32, col: u32) -> vec4<f32> {{"));
    if vec4 {
        t.line(match element {
            ElementType::F32 => format!("return {name}[(start + col) >> 2u];"),
            packed => format!("return unpack{}({name}[(start + col) >> 2u]);", packed.suffix()),
        });
    } else {
        t.line(format!("let last = dims.{extent} - 1u;"));
        let at = |i: usize| format!("start + min(col + {i}u, last)");
        let part = |i: usize| match element {
            ElementType::F32 => format!("{name}[{}]", at(i)),
            packed => format!("one{}({name}[({}) >> 1u], {})", packed.suffix(), at(i), at(i)),
        };
        let parts: Vec<_> = (0..4).map(part).collect();
        t.line(format!("return vec4<f32>({});", parts.join(", ")));
    }
    t.line("}");
    t.line("");
}
