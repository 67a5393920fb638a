#!/usr/bin/env python3
"""Chat templates rendered by transformers: chat.json and semantics.json in tests/golden, which tests/parity/sft/templates.rs compares with.

    pip install transformers jinja2
    tests/golden/chat.py                    the templates below
    tests/golden/chat.py FOLDER out.json    every *.jinja of a folder: LEHR_CHAT_GOLDENS=out.json cargo test --test parity sft templates_render

The templates are written here, in the manner of those that models bring. The plain one is read out of crates/core/src/data/chat/template.rs.
"""

import itertools
import json
import re
import sys
import time
from pathlib import Path

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}


def plain():
    source = (HERE / "../../src/data/chat/template.rs").read_text()
    text = re.search(r'pub const PLAIN: &str = "\\\n(.*?)";', source, re.S).group(1)
    return text.replace("\\\\", "\\")


TEMPLATES = {
    "chatml": """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}""",
    "chatml-generation": """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content ~ '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") if false else "26 Jul 2024" %}
{%- endif %}
{#- The system message comes first, whatever the chat says. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- generation %}
        {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- elif not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "alternating": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = '<<SYS>>' + messages[0]['content'].strip() + '<</SYS>> ' %}{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{% generation %}
{{ ' ' + message['content'].strip() + eos_token }}
{% endgeneration %}
{% else %}
{{ raise_exception('Only user and assistant roles are supported, not ' + message['role'] + '!') }}
{% endif %}
{% endfor %}""",
    "everything": """{%- macro line(name, text='-') -%}
{{ name | upper }}: {{ text | default('none', true) | replace('\\n', ' / ') }}
{%- endmacro -%}
{%- set roles = messages | map(attribute='role') | list -%}
{{ roles | join(',') }};{{ messages | selectattr('role', 'equalto', 'user') | list | length }};{{ roles | unique | sort | join('+') }}
{% for message in messages if message.role != 'system' -%}
    {%- if message.content is not string %}{% continue %}{% endif -%}
    {{ loop.index }}/{{ loop.length }} {{ line(message.role, message.content) }}
    {%- for key, value in message.items() if key not in ['role', 'content'] %} {{ key }}={{ value }}{% endfor %}
    {%- if loop.previtem is defined and loop.previtem.role == message.role %} again{% endif %}
    {%- if loop.index > 5 %}{% break %}{% endif %}

{% endfor %}
{{ (messages | first).content[:3] }}|{{ messages[-1].get('name', 'nobody') }}|{{ [1, 2.5, true, none] }}|{{ 7 // 2 }}|{{ 'a' ~ 1 }}|{{ 'x' if tools is iterable and tools | length > 0 else 'y' }}{{ none is iterable }}{{ '' is iterable }}
{%- if messages | length > 1 %}{{ messages[1] | tojson(indent=2) }}{% endif %}
{%- set found = namespace(any=false) %}
{%- for m in messages %}{% if 'é' in m.content %}{% set found.any = true %}{% endif %}{% endfor %}{{ found.any }}
{{- messages[0].role.title() }}{{ 'ab'.center(6) if false else '' }}{{ '%s-%d' | format('n', 3) }}""",
}

# What engines other than Jinja2 and Python compute in ways of their own.
TEMPLATES["python"] = """{%- for m in messages -%}
{%- set c = m.content -%}
{{ c | e }}|{{ c.title() }}|{{ c | title }}|{{ c | indent(2) }}|{{ c | indent('> ', true, true) }}|{{ c | indent(width=1, blank=true) }}
{{- c.splitlines() }}|{{ (c ~ '\\r\\x0bx\\u2028z').splitlines(true) | length }}|{{ ('\\x1c ' ~ c).split() | length }}
{{- c.split(none, 1) | last | default('none') }}|{{ ('\\x1f' ~ c ~ '\\x1c').strip() }}|{{ ('\\x1f' ~ c ~ '\\x1c').rstrip() | length }}
{{- c is sequence }}{{ m is sequence }}{{ 1 is sequence }}{{ [1e-5, 1e16, 0.1, 3] | tojson }} {{ 1e-5 }} {{ 1e22 | string }} {{ 0.0001 }}
{% endfor -%}"""

# Values as `str`, `repr` and `json.dumps` write them.
TEMPLATES["printed"] = """{%- set c = messages[-1].content ~ 'a\\u200d\\xa0' -%}
{%- set nan = 'nan' -%}{%- set inf = 'inf' -%}
{%- set values = [1.0, 1e-5, 1e16, nan | float, -(inf | float), 2.5, {'a': (1.5,), 'b': [none, true], 3: ()}, c, "it's", nobody] -%}
{{ values }}|{{ 'x' ~ values ~ 1e-5 ~ nobody }}|{{ [1e-5, [1e20], c] | join(' ') }}|{{ [{'n': 1e-7}, {'n': [c]}] | join(';', attribute='n') }}
{{ '%s %s' | format([1e-5, c], 2e20) }}|{{ '{} {}'.format([1e-5, c], 2e20) }}|{{ (1e-9, 2) | string }}|{{ [1e-5] | upper }}|{{ 1e-5 | capitalize }}
{{ [1e-5] | replace('1', '2') }}|{{ [c] | e }}|{{ messages }}|{{ namespace(a=1e-5) }}|{{ [[1e-5], [2.5]] | sum(start=[]) }}|{{ {'b': 1e-7} | dictsort }}
{{ [nan | float, -(inf | float)] | tojson }}{{ {1: 2, none: 3, 2.5: c, 'x': {}} | tojson(ensure_ascii=true, indent='\\t') }}
{{ {'b': [], 'a': [1e-5, {}]} | tojson(sort_keys=true, indent=2) }}{{ [c ~ '\\x7f', 1] | tojson(ensure_ascii=true, separators=(',', ':')) }}
{% if messages | length > 4 %}{{ nobody | tojson }}{% endif %}"""

# The same with what the assistant writes marked: what is found out without the marks must be what stands between them.
HEADER = "'<|im_start|>' + message.role + '\\n"
TEMPLATES["qwen3-generation"] = (
    TEMPLATES["qwen3"]
    .replace(HEADER + "<think>", "'<think>")
    .replace("{{- " + HEADER + "' + content }}", "{{- content }}")
    .replace("{%- if loop.index0 > ns.", "{{- " + HEADER + "' }}{%- generation %}{%- if loop.index0 > ns.")
    .replace("}\n    {%- elif message.role == \"tool\" %}", "}{%- endgeneration %}\n    {%- elif message.role == \"tool\" %}")
)

SAY = {
    "system": {"role": "system", "content": "  You are terse. "},
    "user": {"role": "user", "content": "What is 1 < 2 & \"3\"?\nTell me.  "},
    "assistant": {"role": "assistant", "content": "Yes, é, <b>it</b> is.\n"},
    "user2": {"role": "user", "content": "Noch eine Frage: 你好 🙂"},
    "assistant2": {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nFine."},
    "empty": {"role": "assistant", "content": ""},
    "reasoned": {"role": "assistant", "content": "So it is.", "reasoning_content": "Because é.\n"},
    "call": {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, "<é>"], "c": None}}}],
    },
    "tool": {"role": "tool", "content": "{\"sum\": 3}", "name": "add"},
    "critic": {"role": "critic", "content": "Hm."},
}
CHATS = [
    ["user"],
    ["user", "assistant"],
    ["system", "user", "assistant"],
    ["user", "assistant", "user2", "assistant2"],
    ["system", "user", "assistant2", "user2", "assistant"],
    ["user", "assistant", "user2", "empty"],
    ["user", "call", "tool", "tool", "assistant2", "user2"],
    ["user", "reasoned", "user2", "reasoned"],
    ["system", "user", "call", "tool", "reasoned", "user2", "empty"],
    ["user", "user2"],
    ["assistant", "user"],
    ["system", "critic"],
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a + b, \"exactly\"", "parameters": {"type": "object", "properties": {}}}}]


# Expressions and blocks in which Jinja2 and Python differ from other engines. Rendered alike:
RENDERED = [
    "{% set y=1 %}{% for m in messages %}{%- generation -%}{% set y=2 %}{{ y }}{%- endgeneration -%}{{ y }} {% endfor %}",
    "{% filter upper %}{% set y=2 %}y{{ y }}{% endfilter %}{{ y is defined }}",
    "{% set x %}{% set y=2 %}a{{ y }}{% endset %}{{ x }}{{ y is defined }}",
    "{% if true %}{% set y=2 %}{% endif %}{{ y }}{% for i in [1] %}{% set y=3 %}{% endfor %}{{ y }}",
    "{{ range(3) }}|{{ range(1, 4) }}|{{ range(0, 10, 3) | list }}|{{ range(5, 0, -2) }}|{{ [range(2)] }}|{{ range(4)[1] }}{{ range(4)[-1] }}{{ range(3) | length }}",
    "{% for i in range(3) %}{{ i }}/{{ loop.length }} {% endfor %}{{ range(0) | list }}{{ 2 in range(3) }}{{ range(3) is sequence }}{{ range(3) | join('-') }}",
    "{{ props.items() }}|{{ props.keys() }}|{{ props.values() }}|{{ [props.keys()] }}|{{ props.keys() ~ '' }}|{{ props.items() | string }}",
    "{% for k, v in props.items() %}{{ k }}={{ v }};{% endfor %}{{ props.keys() | list }}{{ props.keys() | length }}{{ 'items' in props.keys() }}",
    "{{ props.values() | join(',') }}|{{ props.keys() | first }}|{% set k = props.keys() %}{{ k }}|{{ k is sequence }}{{ k is iterable }}{{ k is mapping }}[{{ k[0] }}]",
    "{{ props['items'] }}|{{ props['keys'] is defined }}{{ props.keys is defined }}{{ props['zzz'] is defined }}{{ props.zzz is defined }}{{ props.pop is defined }}{{ props['pop'] is defined }}",
    "{{ 'yes' if props.items else 'no' }}{{ 'yes' if props.keys is none else 'no' }}{{ props.items is string }}{{ props.items is mapping }}{{ props.items is iterable }}",
    "{% set key = 'items' %}{{ props[key] }}{{ schema['items'].type }}{{ schema['items']['type'] }}{{ schema.items.type is defined }}{{ schema.type }}",
    "{{ messages[0].content.title is defined }}{{ messages[0].content.nothing is defined }}{{ messages.index is defined }}{{ messages.append is defined }}{{ (1, 2).count is defined }}",
    "{{ props.get('items') }}{{ props.get('keys', 'd') }}{{ odd.get('get') }}{{ odd['get'] }}{{ odd['update'] }}[{{ odd.update }}]",
    "{% for m in messages | selectattr('role', 'equalto', 'nobody') %}x{% else %}none{% endfor %}{% if messages | selectattr('role', 'equalto', 'nobody') %}true{% endif %}",
    "{% set r = messages | map(attribute='role') %}{{ r | join(',') }}|{{ r | join(',') }}|{% for m in messages | map(attribute='role') %}{{ m }}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "{% set r = messages | map(attribute='role') %}{{ r | first }}{{ r | first }}{{ messages | reverse | map(attribute='role') | list }}{{ 'abc' | reverse }}{{ [props] | map(attribute='items') | list }}{{ 4 is even }}{{ {'b': 2, 'a': 1} | dictsort(by='value') }}",
    "{{ [3, 1, 2] | sort }}{{ ['b', 'A'] | sort }}{{ messages | sort(attribute='role') | map(attribute='role') | list }}{{ [1, 2.5, true] | max }}{{ ['b', 'a'] | min }}{{ [none, none] | sort }}{{ messages | sort(attribute='nobody') | length }}",
    "{{ 1 < 2 }}{{ 1 < 2.5 < 3 }}{{ 'a' < 'b' }}{{ true < 2 }}{{ [1, 2] < [1, 3] }}{{ (1,) <= (1, 2) }}{{ 3 > 2 > 2 }}{{ 1 < 0 }}{{ 2 is gt 1 }}{{ [1, 2, 3] | select('gt', 1) | list }}",
    "{{ 'a' in 'abc' }}{{ 1 in [1, 2] }}{{ 'role' in messages[0] }}{{ 'x' not in props }}{{ 'x' in nobody }}{{ 1 == '1' }}{{ 1 == 1.0 }}",
    "{% for x in nobody %}a{% else %}b{% endfor %}{{ nobody | list }}{{ nobody | length }}{{ nobody | join }}",
    "{{ lipsum is defined }}{{ cycler is defined }}{{ joiner is defined }}{{ range is defined }}{{ dict is defined }}{{ namespace is defined }}",
    "{% set ns = namespace(items=1, keys=2) %}{% set ns.items = ns.items + ns.keys %}{{ ns.items }}{{ ns['keys'] }}{{ ns.values is defined }}",
    "{% macro f(m, p='>') %}{{ p }}{{ m.role }}{% endmacro %}{{ f(messages[0]) }}{{ f(messages[0], p='!') }}{{ [1] + [2] }}{{ [0] * 2 }}{{ messages[:1] | length }}",
    "{{ {'a': 1}.items() | list }}{{ {'a': 1} | items | list }}{{ {'b': 1, 'a': 2} | dictsort }}{{ messages[0] | attr('content') is defined }}{{ messages[0]['content'][0] }}",
    "{% for n in tree recursive %}{{ n.n }}{{ loop(n.c) if n.c }}{% endfor %}{% for g in messages | groupby('role') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}",
]
# An error, here and in transformers:
WRONG = [
    "{{ 'a' < 1 }}", "{{ none < 1 }}", "{{ [1] < (1,) }}", "{{ {} < {} }}", "{{ nobody < 1 }}", "{{ 1 < 'a' < 2 }}", "{{ 'a' is lt 1 }}", "{{ [1, 'a'] | sort }}",
    "{{ {1: 1, 'b': 2} | dictsort }}", "{{ {'a': 1, 'b': 'x'} | dictsort(by='value') }}", "{{ 'a' is even }}",
    "{{ [1, none] | max }}", "{{ [messages[0], {'role': 1}] | sort(attribute='role') | list }}", "{{ messages | groupby('nobody') | list }}", "{{ [1, 'a'] | select('gt', 1) | list }}",
    "{% for x in none %}a{% endfor %}", "{% for x in 3 %}a{% endfor %}", "{{ none | list }}", "{{ none | join }}", "{{ none | length }}", "{{ none | first }}",
    "{{ 'a' in none }}", "{{ 1 in 'abc' }}", "{{ 1 in 2 }}", "{% for n in [1] recursive %}{{ loop(none) }}{% endfor %}",
    "{{ props.keys() | tojson }}", "{{ range(3) | tojson }}", "{{ messages | map(attribute='role') | tojson }}", "{{ messages | map(attribute='role') | length }}",
    "{{ messages | map(attribute='role') | last }}", "{{ range(2) + [1] }}", "{{ props.keys() + [1] }}", "{{ props.items | length }}", "{% for k in props.items %}a{% endfor %}",
    "{{ props.pop('items') }}", "{{ 'a,b' | split(',') }}", "{{ [1] | zip([2]) | list }}", "{{ 'ab' is startingwith 'a' }}", "{{ range(0, 5, 0) }}", "{{ range(200000) | list }}",
    "{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
]
# Texts with an address, and what lehr does not have: an error here.
REFUSED = [
    "{{ props.items }}", "{{ [props.items] }}", "{{ 'x'.upper }}", "{{ schema.items }}", "{{ messages | map(attribute='role') }}", "{{ range }}", "{{ 'x' ~ props.keys }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}", "{% macro f() %}{% for a in varargs %}{{ a }}{% endfor %}{% endmacro %}{{ f(1) }}", "{{ self is defined }}",
    "{{ range(3) == [0, 1, 2] }}", "{% set r = range(2) %}{{ r == [0, 1] }}", "{% macro f(x, y=x) %}{{ y }}{% endmacro %}{{ f(1) }}",
    "{{ [{'items': 1}, {}] | selectattr('items') | list | length }}", "{{ [{}] | map(attribute='items') | list }}",
    "{% set f = props.keys %}{{ f() }}", "{{ range(3)[:2] }}", "{{ props.keys()[:1] }}", "{{ (1).real }}", "{% set j = joiner(',') %}{{ j() }}",
    "{% for x in [1] %}{% with y = 1 %}{% continue %}{% endwith %}{% endfor %}",
]


def semantics(to=HERE / "semantics.json"):
    context = {
        "props": {"type": "array", "items": {"type": "string"}},
        "schema": {"type": "array", "items": {"type": "integer"}},
        "odd": {"get": "g", "update": "u"},
        "tree": [{"n": 1, "c": [{"n": 2, "c": []}]}],
    }
    messages, cases = [SAY["user2"], SAY["assistant"]], []
    for kind, templates in {"rendered": RENDERED, "wrong": WRONG, "refused": REFUSED}.items():
        for template in templates:
            try:
                text = render_jinja_template([messages], chat_template=template, add_generation_prompt=False, **context)[0][0]
                assert kind != "wrong", template
                cases.append({"template": template, "text": text} if kind == "rendered" else {"template": template})
            except Exception as error:  # noqa: BLE001
                assert kind != "rendered" and not isinstance(error, AssertionError), (template, error)
                cases.append({"template": template, "error": str(error)})
    out = {"transformers": transformers.__version__, "messages": messages, "context": context, "cases": cases}
    Path(to).write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases of semantics")


def main(folder=None, to=HERE / "chat.json"):
    out = []
    templates = {"plain": plain(), **TEMPLATES}
    if folder:
        templates = {path.stem: path.read_text() for path in sorted(Path(folder).glob("*.jinja"))}
    for name, template in templates.items():
        cases = []
        for roles, generate in itertools.product(CHATS, [False, True]):
            messages = [SAY[role] for role in roles]
            tools = TOOLS if "call" in roles else None
            specials = {} if name == "plain" and roles[0] == "system" else SPECIALS
            case = {"messages": messages, "tools": tools, "specials": specials, "add_generation_prompt": generate}
            try:
                texts, spans = render_jinja_template(
                    [messages], tools=tools, chat_template=template, return_assistant_tokens_mask=True,
                    add_generation_prompt=generate, **specials,
                )  # fmt: skip
                case |= {"text": texts[0], "spans": spans[0]}
            except Exception as error:  # noqa: BLE001
                case |= {"error": str(error)}
            cases.append(case)
        out.append({"name": name, "template": template, "cases": cases})
    date = {"date": int(time.time())} if folder else {}
    text = json.dumps({"transformers": transformers.__version__, **date, "templates": out}, ensure_ascii=False, indent=1)
    Path(to).write_text(text + "\n")
    errors = {c["error"] for t in out for c in t["cases"] if "error" in c}
    print(len(out), "templates,", sum(len(t["cases"]) for t in out), "cases; refusals:", *errors, sep="\n  ")


main(*sys.argv[1:])
if len(sys.argv) == 1:
    semantics()
