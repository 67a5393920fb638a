//! Malicious templates: each is refused with one line that names the limit, or rendered; none ends the process or
//! takes long.

use lehr::data::chat::{Chat, ChatTemplate};
use serde_json::{Map, json};
use std::time::{Duration, Instant};

/// Bytes of this program in memory at most so far.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<usize>().ok()).map_or(0, |kib| kib << 10)
}

fn chat() -> Chat {
    let messages = ["system", "user", "assistant", "user"].map(|role| json!({"role": role, "content": "some words"}));
    Chat { messages: messages.to_vec(), ..Chat::default() }
}

/// A loop around a statement, with this number of iterations.
fn repeat(n: usize, body: &str) -> String {
    format!("{{% for i in range({n}) %}}{body}{{% endfor %}}")
}

/// (template, part of the refusal)
// Length: a table.
fn hostile() -> Vec<(String, &'static str)> {
    let ns = "{% set ns = namespace(x=[1]) %}";
    let often = |body: &str| repeat(300, &repeat(300, body));
    let literal = |open: &str, close: &str, n: usize| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n));
    vec![
        // Recursion of the parser and of the compiler.
        (format!("{{{{ {}x }}}}", "not ".repeat(22_000)), "operators"),
        (format!("{{{{ {}1 }}}}", "-".repeat(100_000)), "operators"),
        (format!("{{{{ 1{} }}}}", "+1".repeat(100_000)), "operators"),
        (format!("{{{{ 'a'{} }}}}", "~'a'".repeat(100_000)), "operators"),
        (format!("{{{{ 2{} }}}}", "**1".repeat(50_000)), "operators"),
        (format!("{{{{ x{} }}}}", " if x else x".repeat(50_000)), "operators"),
        (format!("{{{{ x{} }}}}", "|trim".repeat(100_000)), "operators"),
        (format!("{{{{ x{} }}}}", ".a".repeat(100_000)), "operators"),
        (format!("{{{{ x{} }}}}", "[0]".repeat(100_000)), "operators"),
        (format!("{{{{ x{} }}}}", " is none".repeat(50_000)), "operators"),
        (format!("{{{{ x{} }}}}", " and x".repeat(50_000)), "operators"),
        (format!("{{{{ 1{} }}}}", " < 2".repeat(50_000)), "operators"),
        (literal("(", ")", 100_000), "operators"),
        (literal("[", "]", 1000), "recursion"),
        (literal("{1:", "}", 1000), "recursion"),
        (format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(50_000)), "elif"),
        (format!("{}{}", "{% if true %}".repeat(20_000), "{% endif %}".repeat(20_000)), "recursion"),
        (format!("{}{}", "{% for x in [1] %}".repeat(20_000), "{% endfor %}".repeat(20_000)), "recursion"),
        ("a".repeat((1 << 20) + 1), "1 MiB"),
        // Values in values.
        (format!("{ns}{}{{{{ ns.x }}}}", often("{% set ns.x = [ns.x] %}")), "nested"),
        (format!("{ns}{}{{{{ ns.x|tojson }}}}", often("{% set ns.x = {'a': ns.x} %}")), "nested"),
        (format!("{ns}{}{{{{ ns.x == 1 }}}}", often("{% set ns.x = (ns.x, 1) %}")), "nested"),
        (format!("{ns}{}", often("{% set ns.x = dict(a=ns.x) %}")), "nested"),
        (format!("{ns}{}", often("{% set ns.x = namespace(a=ns.x) %}")), "namespace"),
        (format!("{ns}{}{{{{ ns.x|length }}}}", often("{% set ns.x = [ns.x[0:]][0][0:] %}")), ""),
        (format!("{ns}{}{{{{ ns.x|last }}}}", often("{% set ns.x = ns.x|reverse %}")), ""),
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".into(), "namespace"),
        ("{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns|tojson }}".into(), "namespace"),
        ("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}".into(), "namespace"),
        (
            "{% set x = [1] %}{% set x = [x] %}".replace("{% set x = [x] %}", &"{% set x = [x] %}".repeat(19_000)) + "{{ x }}",
            "nested",
        ),
        (
            "{% macro f(x, n) %}{% if n %}{{ f([x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ f(1, 30000) }}".into(),
            "recurs",
        ),
        ("{% macro f(x) %}{{ f([[[[[[[[x]]]]]]]]) }}{% endmacro %}{{ f(1) }}".into(), "nested"),
        ("{% for x in [[1]] recursive %}{{ loop([[[[[[[[x]]]]]]]]) }}{% endfor %}".into(), "nested"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(), "recurs"),
        // Lists that cost nothing until they are read.
        (format!("{ns}{}{{{{ ns.x|length }}}}", repeat(40, "{% set ns.x = ns.x + ns.x %}")), "over a limit"),
        (format!("{ns}{}{{{{ ns.x }}}}", repeat(40, "{% set ns.x = [ns.x, ns.x] %}")), "values in one value"),
        ("{{ '%(é'|format(1) }}".into(), "ASCII"),
        ("{{ '%(é)s'|format(a=1) }}".into(), "ASCII"),
        ("{{ '{é}'.format(1) }}".into(), "ASCII"),
        ("{{ '{:é>9}'.format(1) }}".into(), "ASCII"),
        (format!("{ns}{}", repeat(40, "{% set ns.x = ns.x|chain(ns.x) %}")), "filter chain is unknown"),
        ("{{ [1] * 100000000 }}".into(), "values in one value"),
        ("{{ [[1] * 100000] * 100000 ~ '' }}".into(), "values in one value"),
        ("{{ [1] * 100000000 ~ '' }}".into(), "values in one value"),
        ("{{ ([1] * 100000000)|join }}".into(), "values in one value"),
        ("{{ [1] * 100000000 in 'a' }}".into(), "values in one value"),
        ("{{ ''.join(['a' * 1000000] * 1000000) }}".into(), "one value"),
        ("{{ (['a' * 1000000] * 1000)|string }}".into(), "of text in one value"),
        ("{% set l = 'a' * 1000000 %}{{ [l] * 1000 }}".into(), "of text in one value"),
        ("{{ range(1000000000)|list }}".into(), "range"),
        ("{{ range(99999)|map('string')|map('list')|list|tojson|length }}".into(), ""),
        (often(&often("x")), "fuel"),
        (format!("{ns}{}", often(&often("{% set ns.x = ns.x %}"))), "fuel"),
        // Long texts.
        ("{{ 'a' * 10000000000 }}".into(), "fuel"),
        (
            "{% set ns = namespace(x='a') %}".to_owned() + &repeat(60, "{% set ns.x = ns.x + ns.x %}") + "{{ ns.x|length }}",
            "fuel",
        ),
        (
            "{% set ns = namespace(x='a') %}".to_owned() + &repeat(60, "{% set ns.x = ns.x ~ ns.x %}") + "{{ ns.x|length }}",
            "fuel",
        ),
        ("{{ {'a': [1]}|tojson(indent=10000000000) }}".into(), "tojson"),
        ("{{ messages|tojson(separators=['x' * 30000000, 'y' * 30000000]) }}".into(), "tojson"),
        ("{{ 'a'|indent(10000000000, true) }}".into(), "indent would write"),
        ("{{ '%10000000000d'|format(1) }}".into(), "format"),
        ("{{ '%*d'|format(1000000000, 1) }}".into(), "format"),
        ("{{ '{:>10000000000}'.format('a') }}".into(), "format"),
        ("{{ ('{0}' * 10000).format('a' * 1000000) }}".into(), "format"),
        ("{{ ('%(a)s' * 10000)|format(a='a' * 1000000) }}".into(), "format"),
        ("{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}".into(), "fuel"),
        ("{% set a = 'a' * 1000000 %}{{ a|replace('a', a) }}".into(), "fuel"),
        ("{% set a = 'a' * 1000000 %}{{ (a * 30).join(range(1000)) }}".into(), "fuel"),
        // Tokenising takes a hundred times as much memory as the text.
        ("{% for i in range(2) %}{{ ' ' * 3000000 }}{% endfor %}".into(), "wrote more than 4 MiB"),
        ("{{ strftime_now('%Y' * 1000000) }}".into(), "strftime_now"),
        ("{{ raise_exception('a' * 30000000) }}".into(), "aaa"),
        (often("{{ 'a' * 1000 }}"), ""),
        ("{{ 2 ** 1000000000 }}".into(), "calculate"),
        ("{{ 1.5|round(2000000000) }}".into(), ""),
        ("{{ lehr_bound }}{{ 1|lehr_attribute }}{{ debug() }}".into(), "debug is unknown"),
        // Python's pprint breaks lines elsewhere than MiniJinja's.
        ("{{ {'a': 1}|pprint }}".into(), "pprint is unknown"),
    ]
}

#[test]
fn hostile_templates_are_refused_by_name() {
    let chat = chat();
    let mut wrong = Vec::new();
    for (source, wanted) in hostile() {
        let start = Instant::now();
        let done = ChatTemplate::new(&source, Map::new(), 0).and_then(|template| template.render(&chat, true));
        let (output, took) =
            (done.map_or_else(|e| format!("{e:#}"), |r| format!("rendered {} bytes", r.text.len())), start.elapsed());
        let shown: String = source.chars().take(90).collect();
        eprintln!("{:7.1} ms {:5} MiB  {shown}: {output}", 1e3 * took.as_secs_f64(), peak() >> 20);
        let named = output.contains(wanted)
            && output.len() < 400
            && !output.contains('\n')
            && (wanted.is_empty() || !output.starts_with("rendered"));
        if !named || took > Duration::from_secs(20) {
            wrong.push(format!("{shown}\n    wanted {wanted:?}, in {took:?}: {output}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(peak() < 3 << 30, "{} MiB", peak() >> 20);
}

/// Each turn takes renderings of the whole conversation: one of a hundred thousand messages would take days.
#[test]
fn unmatched_turns_are_refused_without_generation_blocks() {
    let messages = |count: usize| -> Chat {
        let message = |i: usize| json!({"role": if i.is_multiple_of(2) { "user" } else { "assistant" }, "content": "x"});
        Chat { messages: (0..count).map(message).collect(), ..Chat::default() }
    };
    let plain =
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let marked = "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let part = |source: &str, chat: &Chat| {
        let template = ChatTemplate::new(source, Map::new(), 0)?;
        template.assistant_part(chat, &template.render(chat, false)?).map(|output| output.len())
    };
    let error = part(plain, &messages(5000)).unwrap_err().to_string();
    assert!(error.starts_with("holds 5000 messages; ") && error.contains("more than 4096"), "{error}");
    assert_eq!(part(marked, &messages(5000)).unwrap(), 5000, "where the template marks them, nothing is looked for");
    assert_eq!(part(plain, &messages(20)).unwrap(), 10);
}

#[test]
fn a_template_is_used_by_many_threads() {
    let template = ChatTemplate::new("{% for m in messages %}{{ m.role }} {% endfor %}", Map::new(), 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (0..200).for_each(|_| assert_eq!(template.render(&chat(), true).unwrap().text, "system user assistant user "))
            });
        }
    });
}

#[test]
fn guards_change_nothing_that_a_template_sees() {
    let render = |source: &str| ChatTemplate::new(source, Map::new(), 0).unwrap().render(&chat(), true).unwrap().text;
    for (source, wanted) in [
        ("{% set x = {'b': messages[1:2]|map(attribute='role')|list, 'a': 1} %}{{ x }}", "{'b': ['user'], 'a': 1}"),
        ("{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]"),
        ("{% set x = (1, [2][0:]) %}{{ x }}", "(1, [2])"),
        ("{% macro f(a, b=[1]) %}{{ a is defined }}{{ b }}{% endmacro %}{{ f() }}{{ f(b=messages[9:]) }}", "False[1]False[]"),
        (
            "{% set ns = namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.l|join(' ') }}",
            "system user assistant user",
        ),
        ("{% for k, v in messages[0].items() %}{{ k ~ v }};{% endfor %}", "rolesystem;contentsome words;"),
        ("{{ nothing is defined }}{{ nothing ~ 'x' }}{{ (nothing or 'y') }}{{ nothing|default('z') }}", "Falsexyz"),
        (
            "{{ 'user' in messages|map(attribute='role') }}{{ 'x' not in ['y'] }}{{ 2 * 3 + 1 }}{{ ' ' * 2 }}|{{ [1] * 2 }}",
            "TrueTrue7  |[1, 1]",
        ),
        ("{%- for m in messages -%}\r\n  {{ m.role }}\r\n{%- endfor %}\r\nend\r\n", "systemuserassistantuserend"),
        ("{{ '%s-%03d'|format('a', 7) }} {{ '{:>4}|{a}'.format('b', a=1) }}", "a-007    b|1"),
        ("{{ '{é}é'.replace('{é}', 'é') }}{{ 'é %s é'|format('é') }}{{ 'é {} é'.format('é') }}", "ééé é éé é é"),
        ("{{ '{a} {b}'.format(a=[true, 'x'], b={'c': none}) }} {{ '%(a)s'|format(a=[1.0]) }}", "[True, 'x'] {'c': None} [1.0]"),
    ] {
        assert_eq!(render(source), wanted, "{source}");
    }
}
