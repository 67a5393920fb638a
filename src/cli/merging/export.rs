//! `lehr export`

use crate::cli::{open, output};
use crate::data::Tokenizer;
use crate::data::chat::{Chat, ChatTemplate};
use crate::data::gguf_metadata;
use crate::model::Parameters;
use crate::model_files::gguf::{self, BlockType, GgufPlan};
use crate::model_files::weight_files::WeightFiles;
use crate::vfs::{RealFs, Vfs, display_path, human_bytes, write_whole, write_whole_by};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::path::{Path, PathBuf};
use web_time::Instant;

/// Flags of `lehr export`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  lehr export runs/stories --gguf stories.gguf --type q8_0\n\nFILE.Modelfile is written beside FILE: \
    ollama create NAME -f FILE.Modelfile"
)]
pub struct Args {
    /// Model folder (lehr's or Hugging Face's), GGUF file, or run folder.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Output file, for llama.cpp, Ollama, LM Studio.
    #[arg(long, value_name = "FILE")]
    gguf: PathBuf,
    /// Data type of matrices; norms and biases stay F32.
    #[arg(long = "type", value_enum, default_value = "f16")]
    kind: Kind,
}

/// Data types for GGUF files.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// 32 bits: exact.
    F32,
    /// 16 bits, 11 bits of precision.
    F16,
    /// 16 bits, 8 bits of precision; F32's range.
    Bf16,
    /// 8.5 bits.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Kind {
    fn block_type(self) -> BlockType {
        match self {
            Self::F32 => BlockType::F32,
            Self::F16 => BlockType::F16,
            Self::Bf16 => BlockType::BF16,
            Self::Q8_0 => BlockType::Q8_0,
        }
    }
}

/// Export a model.
///
/// # Errors
/// A model or tokenizer feature that llama.cpp lacks, by name; a failed write.
pub fn run(args: &Args) -> Result<i32> {
    let began = Instant::now();
    let dir = open::model_folder("MODEL", &args.model)?;
    let config = open::config(&dir)?;
    let tokenizer = open::tokenizer(&dir, &config)?;
    ensure!(!args.gguf.is_dir(), "--gguf {}: is a folder; name a file", display_path(&args.gguf));
    let folder = args.gguf.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--gguf {}: there is no folder {}", display_path(&args.gguf), display_path(folder));
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    ensure!(!same(&dir, &args.gguf), "--gguf {}: is the model itself; name another file", display_path(&args.gguf));
    let weights = WeightFiles::open(&RealFs, &dir)?;
    let cannot = || format!("{}: cannot be written as GGUF", display_path(&dir));
    let spelled = gguf_metadata(&tokenizer, config.model.vocab_size).with_context(cannot)?;
    let name = name_of(&args.model);
    let declared = Parameters::new(&config.model, u64::MAX)?.names();
    let plan = GgufPlan::new(&name, &config.model, declared, &weights, spelled, args.kind.block_type()).with_context(cannot)?;
    for note in &plan.notes {
        output::note(&format!("note: {note}"));
    }
    if let Ok(free) = RealFs.free_space(folder) {
        let needed = plan.bytes();
        ensure!(
            free >= needed,
            "--gguf {}: needs {}, but {} are free on this disk",
            display_path(&args.gguf),
            human_bytes(needed),
            human_bytes(free)
        );
    }
    let mut line = output::ProgressLine::with_interval(output::PLAIN_LINE_SECONDS);
    write_whole_by(&args.gguf, |out| {
        gguf::write(&plan, out, &mut |_, done, all| {
            line.show(|| format!("{} of {}", human_bytes(done), human_bytes(all)));
            Ok(true)
        })
    })?;
    line.end();
    let modelfile = modelfile_of(&args.gguf);
    write_whole(&modelfile, modelfile_text(&args.gguf, &tokenizer)?.as_bytes())?;
    output::line(&format!(
        "{}: {}, {} ({})\n{}: for ollama create NAME -f {}",
        display_path(&args.gguf),
        args.kind.block_type().name(),
        human_bytes(plan.bytes()),
        output::duration(began.elapsed().as_secs_f64()),
        display_path(&modelfile),
        display_path(&modelfile)
    ))?;
    Ok(0)
}

/// The model's name: the folder's name.
fn name_of(model: &Path) -> String {
    let absolute = std::path::absolute(model).unwrap_or_else(|_| model.to_path_buf());
    let name = absolute.file_stem().map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "model".into())
}

fn modelfile_of(gguf: &Path) -> PathBuf {
    let mut name = gguf.file_name().unwrap_or_default().to_os_string();
    name.push(".Modelfile");
    gguf.with_file_name(name)
}

/// An Ollama Modelfile: the chat template in Ollama's language, and the stop strings.
fn modelfile_text(gguf: &Path, tokenizer: &Tokenizer) -> Result<String> {
    let mut out = format!("FROM ./{}\n", gguf.file_name().unwrap_or_default().to_string_lossy());
    let (ends, mut stops) = (tokenizer.end_tokens(), Vec::new());
    if let Some(source) = tokenizer.chat_template()? {
        match go_template(&source, tokenizer) {
            Some(template) => out.push_str(&format!("TEMPLATE \"\"\"{template}\"\"\"\n")),
            None => out.push_str(
                "# The chat template in the file has no equivalent here; Ollama uses its own where it knows the file's.\n",
            ),
        }
        stops.extend(ends.text().map(str::to_owned));
    }
    stops.extend(ends.ids().iter().filter_map(|id| tokenizer.token_text(*id)));
    for stop in stops {
        out.push_str(&format!("PARAMETER stop {}\n", json!(stop)));
    }
    Ok(out)
}

/// The chat template as a Go template: the text before and after the content of each role. `None` for a more complex template.
fn go_template(source: &str, tokenizer: &Tokenizer) -> Option<String> {
    let template = ChatTemplate::new(source, tokenizer.special_tokens(), 0).ok()?;
    let render = |messages: &[(&str, &str)], prompt: bool| {
        let messages = messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        Some(template.render(&Chat { messages, ..Chat::default() }, prompt).ok()?.text)
    };
    let around =
        |text: &str, content: &str| text.split_once(content).map(|(before, behind)| (before.to_owned(), behind.to_owned()));
    // With a system message, because some templates insert a default one.
    let system = render(&[("system", "SYS")], false)?;
    let (system_before, system_behind) = around(&system, "SYS")?;
    let user = render(&[("system", "SYS"), ("user", "USE")], false)?;
    let (user_before, user_behind) = around(user.strip_prefix(&system)?, "USE")?;
    let prompt = render(&[("system", "SYS"), ("user", "USE")], true)?.strip_prefix(&user)?.to_owned();
    let assistant = render(&[("system", "SYS"), ("user", "USE"), ("assistant", "ASS")], false)?;
    let (assistant_before, assistant_behind) = around(assistant.strip_prefix(&user)?, "ASS")?;
    let bare = render(&[("user", "USE")], false)?;
    let own = bare.strip_suffix(&format!("{user_before}USE{user_behind}"))?;
    let whole = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")];
    let expected = format!(
        "{system_before}a{system_behind}{user_before}b{user_behind}{assistant_before}c{assistant_behind}{user_before}d{user_behind}{prompt}"
    );
    let texts = [&expected, own];
    if render(&whole, true)? != expected || texts.iter().any(|text| text.contains("{{") || text.contains("\"\"\"")) {
        return None;
    }
    let own = if own.is_empty() { String::new() } else { format!("{{{{ if not .System }}}}{own}{{{{ end }}}}") };
    Some(format!(
        "{own}{{{{ range .Messages }}}}{{{{ if eq .Role \"system\" }}}}{system_before}{{{{ .Content }}}}{system_behind}\
         {{{{ else if eq .Role \"user\" }}}}{user_before}{{{{ .Content }}}}{user_behind}\
         {{{{ else if eq .Role \"assistant\" }}}}{assistant_before}{{{{ .Content }}}}{assistant_behind}{{{{ end }}}}{{{{ end }}}}{prompt}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chat_templates_become_ollama_templates() {
        let tokenizer = Tokenizer::bytes(true).unwrap();
        let chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let messages = go_template(chatml, &tokenizer).unwrap();
        assert!(messages.starts_with(
            "{{ range .Messages }}{{ if eq .Role \"system\" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ else"
        ));
        assert!(messages.ends_with("{{ end }}{{ end }}<|im_start|>assistant\n"));
        let with_default = chatml.replacen("{% for", "{% if messages[0].role != 'system' %}HELLO{% endif %}{% for", 1);
        assert!(go_template(&with_default, &tokenizer).unwrap().starts_with("{{ if not .System }}HELLO{{ end }}{{ range"));
        // A template that formats the last answer differently.
        let by_place = "{% for m in messages %}{{ m.content if loop.last else m.role + m.content }}{% endfor %}";
        assert_eq!(go_template(by_place, &tokenizer), None);
    }
}
