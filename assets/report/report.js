// Draws the report's charts from the numbers in the page: linked cross-hair and zoom, axes to choose from, lines to hide. Without it the
// page has still pictures. Everything from outside is set as text, never as markup.
"use strict";
(() => {
    const data = JSON.parse(document.getElementById("data").textContent);
    const SVG = "http://www.w3.org/2000/svg";
    const AXES = { step: "step", tokens: "tokens", seconds: "time of training" };
    /** What all charts share: the horizontal axis, the part of it that is seen (null: all), the cross-hair's place (null: nowhere). */
    const view = { axis: "step", from: null, to: null, at: null };
    const charts = [];
    /** Pixels right of the data, where half of the last label may lie. */
    const BESIDE = 22;

    // ---- small tools

    function make(name, attributes, parent, text) {
        const element = name === "svg" || parent instanceof SVGElement ? document.createElementNS(SVG, name) : document.createElement(name);
        for (const key in attributes) element.setAttribute(key, attributes[key]);
        if (text !== undefined) element.textContent = text;
        if (parent) parent.append(element);
        return element;
    }

    const raised = (n) => String(n).replace(/[-0-9]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
    /** The whole part of a number in decimals, in groups of three digits. */
    const grouped = (text) => text.replace(/^\D*\d+/, (head) => head.replace(/\B(?=(\d{3})+$)/g, ","));
    const whole = (v) => grouped(v.toFixed(0));

    // ---- numbers: a port of crates/core/src/number_format.rs

    /** Numbers that stand below each other: about four digits, the same decimals; what is shorter by itself stays short. */
    function column(values) {
        // What rounding leaves of a zero is one.
        values = values.map((v) => (v === null || v === undefined ? NaN : Math.abs(v) < 1e-12 ? 0 : v));
        const sizes = values.map(Math.abs).filter((size) => size > 0 && size < Infinity);
        const least = Math.min(Infinity, ...sizes), most = Math.max(0, ...sizes), plain = (size) => size >= 1e-3 && size < 1e15;
        if (values.length > 1 && most > 0 && (most > 100 * least || !plain(least) || !plain(most))) return values.map(number);
        const power = most > 0 && !plain(most), exponent = Number(most.toExponential(3).split("e")[1]);
        const digits = power ? 3 : Math.min(Math.max(3 - exponent, 0), 6);
        const written = (v, places) => (power ? v.toExponential(places) : v.toFixed(places));
        let places = 0;
        while (places < digits && !values.every((v) => !Number.isFinite(v) || Number(written(v, places)) === v)) places++;
        return values.map((v) => {
            if (Number.isNaN(v)) return "NaN";
            const [mantissa, ten] = Number.isFinite(v) ? written(Math.abs(v), places).split("e") : ["∞"];
            const text = v === 0 ? "0" : ten === undefined ? grouped(mantissa) : mantissa + "·10" + raised(Number(ten));
            return (v < 0 ? "−" : "") + text;
        });
    }

    const number = (v) => column([v])[0];

    function duration(s) {
        if (s < 10) return s.toFixed(1) + " s";
        if (s < 120) return Math.round(s) + " s";
        if (s < 7200) return Math.floor(s / 60) + " min " + Math.round(s % 60) + " s";
        return Math.floor(s / 3600) + " h " + Math.floor((s / 60) % 60) + " min";
    }

    function place(x) {
        if (view.axis === "seconds") return duration(x);
        return view.axis === "step" ? "step " + whole(x) : whole(x) + " tokens";
    }

    // ---- ticks: a port of crates/core/src/plot/scale.rs, so that these charts and the still pictures are marked alike

    const isWhole = (v) => Math.abs(v - Math.round(v)) <= 1e-6 * Math.max(1, Math.abs(v));

    /** Multiples of 1, 2, 2.5 or 5 times a power of ten, as many as possible up to `most`, at least `least` apart. */
    function steps(low, high, most, least = 0) {
        const span = high - low;
        most = Math.max(most, 2);
        if (!(span > 0) || !Number.isFinite(span)) return [];
        for (let power = Math.floor(Math.log10(span / most)) - 1; ; power++) {
            for (const step of [1, 2, 2.5, 5]) {
                const unit = 10 ** Math.abs(power), value = (k) => (power < 0 ? (k * step) / unit : k * step * unit);
                const first = Math.ceil(low / value(1) - 1e-9), last = Math.floor(high / value(1) + 1e-9);
                const allowed = value(1) >= least && (least === 0 || isWhole(value(1)));
                if (last - first < most && allowed) return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => value(first + i) + 0);
            }
        }
    }

    const labelled = (values) => numbers(values).map((label, i) => [values[i], label]);

    /** Powers of ten; where the span holds few of them, multiples too; where that is not enough, round numbers. */
    function logTicks(low, high, most) {
        const decades = (multiples, every) => {
            const out = [];
            for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
                if (((p % every) + every) % every === 0) for (const m of multiples) out.push(p < 0 ? m / 10 ** -p : m * 10 ** p);
            }
            return out.filter((v) => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
        };
        for (const [multiples, widest] of [[[1, 2, 3, 5], 30], [[1, 2, 5], 1e3], [[1, 3], 1e3]]) {
            const values = decades(multiples, 1);
            if (high / low < widest && values.length <= most && values.length >= 2) return labelled(values);
        }
        if (high / low < 10 && decades([1], 1).length < 2) return labelled(steps(low, high, most));
        let every = 1;
        while (decades([1], every).length > Math.max(most, 2)) every++;
        return labelled(decades([1], every));
    }

    const unitOf = (v) => (v >= 1e12 ? [1e12, " T"] : v >= 1e9 ? [1e9, " G"] : v >= 1e6 ? [1e6, " M"] : [1, ""]);
    const minus = (text) => text.replace(/^-/, "−");
    const placesOf = (values, unit, most) => {
        for (let p = 0; p < most; p++) if (values.every((v) => isWhole((v / unit) * 10 ** p))) return p;
        return null;
    };
    const written = (v, unit, places, suffix) => (v === 0 ? "0" : minus(grouped((v / unit).toFixed(places)) + suffix));

    /** Labels of one axis, written alike. */
    function numbers(values) {
        const sizes = values.map(Math.abs), largest = Math.max(0, ...sizes), smallest = Math.min(Infinity, ...sizes.filter((v) => v > 0));
        if (Number.isFinite(smallest) && largest / smallest > 1e3) return values.map(one);
        if (largest > 0 && (largest < 1e-3 || largest >= 1e15)) {
            const exponent = Math.floor(Math.log10(largest) + 1e-9), places = placesOf(values, 10 ** exponent, 10) ?? 10;
            return values.map((v) => written(v, 10 ** exponent, places, "·10" + raised(exponent)));
        }
        const [unit, suffix] = unitOf(largest), places = placesOf(values, unit, 10) ?? 10;
        return values.map((v) => written(v, unit, places, suffix));
    }

    /** A number by itself. */
    function one(v) {
        const size = Math.abs(v);
        if (v === 0) return "0";
        if (size < 1e-3 || size >= 1e15) {
            let exponent = Math.floor(Math.log10(size)), mantissa = v / 10 ** exponent;
            if (Math.abs(mantissa) >= 9.9995) [mantissa, exponent] = [mantissa / 10, exponent + 1];
            if (isWhole(mantissa) && Math.round(mantissa) === 1) return "10" + raised(exponent);
            return minus(mantissa.toFixed(placesOf([mantissa], 1, 3) ?? 3)) + "·10" + raised(exponent);
        }
        const [unit, suffix] = unitOf(size);
        return written(v, unit, placesOf([v], unit, 6) ?? 3, suffix);
    }

    /** Ticks of the horizontal axis in the units of what it counts. */
    function units(low, high, most) {
        if (view.axis === "seconds") {
            const [unit, name] = high < 180 ? [1, " s"] : high < 10800 ? [60, " min"] : high < 259200 ? [3600, " h"] : [86400, " d"];
            return labelled(steps(low / unit, high / unit, most)).map(([v, label]) => [v * unit, label === "0" ? label : label + name]);
        }
        // There is nothing between two updates.
        if (Math.ceil(low) > Math.floor(high)) return labelled(steps(low, high, most));
        const ticks = labelled(steps(low, high, most, 1));
        const hidden = ticks.some(([, label]) => label.includes(".") && label.split(".")[1].replace(/[A-Za-z]+$/, "").length > 2);
        return hidden ? ticks.map(([v]) => [v, minus(whole(v))]) : ticks;
    }

    /** As many as have room for their labels: none reaches further beyond the end than `beside`. */
    function across(low, high, width, beside) {
        const at = (v) => ((v - low) / (high - low || 1)) * width, wide = (label) => 7 * label.length;
        const free = (a, b) => at(b[0]) - at(a[0]) >= (wide(a[1]) + wide(b[1])) / 2 + 10;
        const of = (most) => units(low, high, most).filter(([v, label]) => at(v) + wide(label) / 2 <= width + beside);
        for (let most = Math.min(Math.max(Math.floor(width / 60), 2), 12); most >= 2; most--) {
            const ticks = of(most);
            if (ticks.length && ticks.every((tick, i) => i === 0 || free(ticks[i - 1], tick))) return ticks;
        }
        for (let most = 2; most < 40; most++) {
            const kept = [];
            for (const tick of of(most)) if (!kept.length || free(kept[kept.length - 1], tick)) kept.push(tick);
            if (kept.length) return kept;
        }
        return [];
    }

    /** Ticks of the vertical axis, as many as suit its height. */
    function upward(low, high, height, log) {
        const most = Math.min(Math.max(Math.floor(height / 42), height < 54 ? 2 : 3), 9);
        return log ? logTicks(low, high, most) : labelled(steps(low, high, most));
    }

    // ---- a chart

    class Chart {
        constructor(figure, spec) {
            Object.assign(this, { figure, spec, log: spec.log });
            this.box = figure.querySelector(".plot");
            this.title = figure.querySelector("h3").textContent;
            this.where = figure.querySelector(".where");
            const rows = figure.querySelectorAll(".legend tbody tr");
            this.lines = spec.lines.map((line, i) => this.prepare(line, rows[i]));
            const positive = this.lines.some((line) => line.raw.some((v) => v > 0));
            if (positive) {
                this.logButton = make("button", { type: "button", class: "tool", "aria-pressed": this.log, title: "logarithmic vertical axis (l)" }, figure.querySelector("figcaption"), "log");
                this.logButton.onclick = () => this.toggleLog();
            }
            this.box.replaceChildren();
            const label = `${this.title}, ${figure.querySelector(".unit").textContent}. Arrow keys read values, plus and minus zoom, Escape shows all.`;
            this.svg = make("svg", { class: "drawn", role: "img", tabindex: 0, "aria-label": label }, this.box);
            this.listen();
        }

        prepare(line, row) {
            const key = row.querySelector("line"), button = row.querySelector("button"), cells = row.querySelectorAll("td");
            const out = { ...line, row, cells, hidden: false, color: key.style.stroke, dash: key.getAttribute("stroke-dasharray") || "none" };
            // What the page says of the line's end.
            out.last = [...cells].map((cell) => cell.textContent);
            button.onclick = () => {
                out.hidden = !out.hidden;
                button.setAttribute("aria-pressed", String(!out.hidden));
                this.draw();
            };
            return out;
        }

        toggleLog() {
            this.log = !this.log;
            this.logButton?.setAttribute("aria-pressed", String(this.log));
            this.draw();
        }

        listen() {
            const x = (event) => this.valueAt(event.clientX);
            let begun = null;
            this.svg.onpointerdown = (event) => {
                if (event.pointerType === "mouse" && event.button !== 0) return;
                begun = event.pointerType === "touch" ? null : event.clientX;
                if (begun !== null) this.svg.setPointerCapture(event.pointerId);
                aim(this.snap(x(event)), this);
            };
            this.svg.onpointermove = (event) => {
                if (begun !== null && Math.abs(event.clientX - begun) > 4) this.choose(this.valueAt(begun), x(event));
                aim(this.snap(x(event)), this);
            };
            this.svg.onpointerup = (event) => {
                const far = begun !== null && Math.abs(event.clientX - begun) > 8;
                const ends = far ? [this.valueAt(begun), x(event)].sort((a, b) => a - b) : null;
                begun = null;
                this.choose();
                if (ends) zoom(ends[0], ends[1]);
            };
            this.svg.onpointercancel = () => { begun = null; this.choose(); };
            this.svg.onpointerleave = () => { if (begun === null) aim(null, this); };
            this.svg.ondblclick = () => zoom(null, null);
            this.svg.onkeydown = (event) => this.press(event);
        }

        press(event) {
            const places = this.places(), many = event.shiftKey ? 10 : 1;
            let i = view.at === null ? places.length : places.findIndex((x) => x >= view.at);
            if (i < 0) i = places.length;
            const moves = { ArrowLeft: i - many, ArrowRight: view.at === null ? 0 : i + many, Home: 0, End: places.length - 1 };
            if (event.key in moves && places.length) aim(places[Math.min(Math.max(moves[event.key], 0), places.length - 1)], this);
            else if (event.key === "Escape" || event.key === "0") { zoom(null, null); aim(null, this); }
            else if (event.key === "+" || event.key === "=") closer(0.5);
            else if (event.key === "-") closer(2);
            else if (event.key === "l" && this.logButton) this.toggleLog();
            else return;
            event.preventDefault();
        }

        xs(line, grid) { return data.grids[grid].map((i) => data.clocks[line.clock][view.axis][i]); }
        valueAt(clientX) {
            const box = this.svg.getBoundingClientRect(), a = this.area, px = (clientX - box.left) * (this.width / box.width);
            return a.low + (Math.min(Math.max(px, a.x), a.x + a.w) - a.x) / a.w * (a.high - a.low);
        }
        /** All places in view where something was measured, ascending. */
        places() {
            const all = new Set();
            for (const line of this.lines) if (!line.hidden) for (const x of line.x) if (x >= this.area.low && x <= this.area.high) all.add(x);
            return [...all].sort((a, b) => a - b);
        }
        snap(x) {
            let best = null;
            for (const line of this.lines) if (!line.hidden) for (const at of line.x) {
                if (at >= this.area.low && at <= this.area.high && (best === null || Math.abs(at - x) < Math.abs(best - x))) best = at;
            }
            return best;
        }

        /** Least and greatest value that is seen. */
        span(low, high) {
            let lo = Infinity, hi = -Infinity;
            const take = (xs, values) => xs.forEach((x, i) => {
                const v = values[i];
                if (v === null || x < low || x > high || (this.log && v <= 0)) return;
                lo = Math.min(lo, v);
                hi = Math.max(hi, v);
            });
            for (const line of this.lines) {
                if (line.hidden) continue;
                take(line.x, line.raw);
                if (line.smooth) take(line.smoothX, line.smooth[1]);
            }
            if (lo > hi) return this.log ? [1, 10] : [0, 1];
            if (this.log) { const by = Math.max((hi / lo) ** 0.05, 1.05); return [lo / by, hi * by]; }
            if (this.spec.range) { const [a, b] = this.spec.range, by = 0.02 * (b - a); return [Math.min(a - by, lo), Math.max(b + by, hi)]; }
            const by = hi > lo ? 0.05 * (hi - lo) : 0.05 * Math.abs(hi) || 1;
            return [lo - by, hi + by];
        }

        /** Anew, at the width that there is, or for paper at a given one. */
        draw(paper) {
            // On paper charts stand in two columns, the first across both.
            const first = this === charts[0];
            this.width = paper ? (first ? 860 : 420) : Math.max(this.box.clientWidth || 560, 200);
            const height = paper ? (first ? 200 : 165) : Math.round(Math.min(Math.max(this.width * 0.5, 200), this.width > 900 ? 380 : 300));
            const [low, high] = view.from === null ? full(this) : [view.from, view.to];
            for (const line of this.lines) {
                line.x = this.xs(line, line.grid);
                if (line.smooth) line.smoothX = this.xs(line, line.smooth[0]);
            }
            const [bottom, top] = this.span(low, high);
            const up = upward(bottom, top, height - 56, this.log);
            const left = 14 + 7 * Math.max(3, ...up.map(([, name]) => name.length));
            const a = this.area = { x: left, y: 10, w: this.width - left - BESIDE, h: height - 56, low, high, bottom, top };
            const f = this.log ? Math.log : (v) => v;
            a.px = (x) => a.x + (x - low) / (high - low || 1) * a.w;
            a.py = (y) => a.y + a.h - (f(y) - f(bottom)) / (f(top) - f(bottom)) * a.h;
            this.svg.replaceChildren();
            this.svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
            make("title", {}, this.svg, this.title);
            this.frame(up, height);
            const inner = make("svg", { x: a.x, y: a.y - 4, width: a.w, height: a.h + 8, viewBox: `${a.x} ${a.y - 4} ${a.w} ${a.h + 8}` }, this.svg);
            this.turns(inner);
            const shown = this.lines.filter((line) => !line.hidden);
            for (const line of shown) if (line.smooth) this.path(inner, line, line.x, line.grid, line.raw, "line pale");
            for (const line of shown) {
                if (line.smooth) this.path(inner, line, line.smoothX, line.smooth[0], line.smooth[1], "line");
                else this.path(inner, line, line.x, line.grid, line.raw, "line");
            }
            this.chosen = make("rect", { class: "chosen", y: a.y, height: a.h, width: 0 }, this.svg);
            this.cross = make("line", { class: "cross", y1: a.y, y2: a.y + a.h, visibility: "hidden" }, this.svg);
            this.dots = make("g", { class: "dots" }, this.svg);
            this.aim();
        }

        frame(up, height) {
            const a = this.area, right = a.x + a.w, floor = a.y + a.h;
            for (const [v, name] of up) {
                const y = a.py(v);
                make("line", { class: "gridline", x1: a.x, x2: right, y1: y, y2: y }, this.svg);
                make("text", { class: "up", x: a.x - 7, y: y + 4, "text-anchor": "end" }, this.svg, name);
            }
            for (const [v, name] of across(a.low, a.high, a.w, BESIDE)) {
                const x = a.px(v);
                make("line", { class: "gridline", x1: x, x2: x, y1: a.y, y2: floor }, this.svg);
                make("text", { class: "across", x, y: floor + 24, "text-anchor": "middle" }, this.svg, name);
            }
            make("line", { class: "axis", x1: a.x, x2: right, y1: floor, y2: floor }, this.svg);
            make("line", { class: "axis", x1: a.x, x2: a.x, y1: a.y, y2: floor }, this.svg);
            make("text", { x: a.x + a.w / 2, y: height - 6, "text-anchor": "middle" }, this.svg, AXES[view.axis]);
        }

        /** Marks on the axis; what changes a run gets a line and, where there is room, a word. */
        turns(inner) {
            const a = this.area, taken = [], saved = [];
            data.runs.forEach((run, r) => {
                const own = this.lines.filter((line) => line.run === r && !line.hidden);
                if (!own.length) return;
                for (const pin of run.pins) {
                    const v = data.clocks[2 * r][view.axis][pin.at], x = a.px(v), floor = a.y + a.h;
                    // As in the window: those that need no mark would look like saves.
                    if (v < a.low || v > a.high || ["start", "end", "pause"].includes(pin.kind)) continue;
                    if (pin.kind === "save") {
                        // Where checkpoints lie closer than their marks, one mark stands for them.
                        if (saved.some((at) => Math.abs(at - x) < 36)) continue;
                        saved.push(x);
                    }
                    const mark = make("path", { class: "pin " + pin.kind, d: `M${x} ${floor + 2}l4 7h-8Z` }, this.svg);
                    make("title", {}, mark, `${place(v)}: ${pin.text}`);
                    if (!pin.short) continue;
                    make("line", { class: "turn", x1: x, x2: x, y1: a.y, y2: floor }, inner);
                    const wide = pin.short.length * 6 + 10, flip = x + wide > a.x + a.w;
                    const from = flip ? x - wide : x;
                    const row = [0, 1, 2].find((k) => !taken.some((t) => t.row === k && from < t.to && t.from < from + wide));
                    if (row === undefined || from < a.x) continue;
                    taken.push({ row, from, to: from + wide });
                    make("text", { class: "said", x: x + (flip ? -5 : 5), y: a.y + 10 + 14 * row, "text-anchor": flip ? "end" : "start" }, this.svg, pin.short);
                }
            });
        }

        path(inner, line, xs, grid, values, kind) {
            const a = this.area, steps = data.clocks[line.clock].step, rows = data.grids[grid], sparse = [];
            let d = "", down = false, alone = null;
            for (let i = 0; i < xs.length; i++) {
                const v = values[i];
                const back = i > 0 && steps[rows[i]] < steps[rows[i - 1]];
                if (v === null || (this.log && v <= 0)) { if (alone) sparse.push(alone); alone = null; down = false; continue; }
                const p = [a.px(xs[i]).toFixed(1), a.py(v).toFixed(1)];
                if (!down || back) { if (alone) sparse.push(alone); alone = p; d += "M" + p.join(" "); } else { alone = null; d += "L" + p.join(" "); }
                down = true;
            }
            if (alone) sparse.push(alone);
            make("path", { class: kind, d, style: `stroke:${line.color};stroke-dasharray:${line.dash}` }, inner);
            const few = rows.length <= 24 && kind === "line";
            for (const p of few ? xs.map((x, i) => [a.px(x), a.py(values[i])]).filter((p, i) => values[i] !== null && Number.isFinite(p[1])) : sparse) {
                make("circle", { cx: p[0], cy: p[1], r: few ? 3 : 2, style: `fill:${line.color}` }, inner);
            }
        }

        choose(from, to) {
            const a = this.area, [x, y] = from === undefined ? [0, 0] : [a.px(from), a.px(to)];
            this.chosen.setAttribute("x", Math.min(x, y));
            this.chosen.setAttribute("width", Math.abs(x - y));
        }

        /** Cross-hair, dots, and the values in the legend. */
        aim() {
            const a = this.area, at = view.at, seen = at !== null && at >= a.low && at <= a.high;
            this.cross.setAttribute("visibility", seen ? "visible" : "hidden");
            this.dots.replaceChildren();
            this.where.textContent = seen ? place(at) : "end";
            if (seen) for (const key of ["x1", "x2"]) this.cross.setAttribute(key, a.px(at));
            if (!seen) {
                for (const line of this.lines) line.cells.forEach((cell, i) => { cell.textContent = line.last[i]; });
                return;
            }
            const found = this.lines.map((line) => [nearest(line.x, line.raw, at, a), line.smooth && nearest(line.smoothX, line.smooth[1], at, a)]);
            this.tell(0, found, at);
            this.tell(1, found, at);
            this.lines.forEach((line, i) => {
                const shown = found[i][1] || found[i][0];
                if (!shown || line.hidden || shown.values[0] === null || (this.log && shown.values[0] <= 0)) return;
                make("circle", { cx: a.px(shown.x), cy: a.py(shown.values[0]), r: 4, style: `fill:${line.color}` }, this.dots);
            });
        }

        /** A column of the legend: what was found for each line, with its place where that is another one. */
        tell(index, found, at) {
            const texts = column(found.flatMap((of) => of[index]?.values ?? []));
            this.lines.forEach((line, i) => {
                const cell = line.cells[index], of = found[i][index];
                if (!cell) return;
                cell.textContent = of ? texts.splice(0, of.values.length).join(" … ") : "";
                // Of a metric without noise, which is measured seldom, every other step is named.
                const near = view.axis === "step" && !line.smooth ? 0.5 : (this.area.high - this.area.low) * 0.01;
                if (of && Math.abs(of.x - at) > near) make("small", {}, cell, "at " + place(of.x).replace("step ", ""));
            });
        }
    }

    /** The newest values nearest to a place; nothing where the line has ended or not begun. */
    function nearest(xs, values, at, area) {
        let best = -1, least = Infinity, low = Infinity, high = -Infinity;
        for (let i = 0; i < xs.length; i++) {
            const d = Math.abs(xs[i] - at);
            if (d <= least) { least = d; best = i; }
            low = Math.min(low, xs[i]);
            high = Math.max(high, xs[i]);
        }
        const slack = (area.high - area.low) * 0.015;
        if (best < 0 || at < low - slack || at > high + slack) return null;
        // The least and the greatest value of a stretch stand at the same place, one after the other.
        const pair = best > 0 && xs[best - 1] === xs[best] && values[best - 1] < values[best];
        return { x: xs[best], values: pair ? [values[best - 1], values[best]] : [values[best]] };
    }

    // ---- all charts together

    /** The part of the axis that the runs of a chart take (of all charts without one): charts of the same runs stand in line. */
    function full(chart) {
        const lines = (chart ? [chart] : charts).flatMap((c) => c.lines).filter((line) => !line.hidden);
        let low = Infinity, high = -Infinity;
        for (const run of new Set(lines.map((line) => line.run))) {
            for (const clock of data.clocks.slice(2 * run, 2 * run + 2)) for (const x of clock[view.axis]) {
                low = Math.min(low, x);
                high = Math.max(high, x);
            }
        }
        return low < high ? [low, high] : Number.isFinite(low) ? [low - 0.5, high + 0.5] : [0, 1];
    }

    const drawAll = (paper) => charts.forEach((chart) => chart.draw(paper));

    function zoom(from, to) {
        if (from !== null && !(to > from)) return;
        Object.assign(view, { from, to });
        drawAll();
    }

    /** See less (or more) around the cross-hair, or around the middle. */
    function closer(factor) {
        const [least, most] = full(), [low, high] = view.from === null ? [least, most] : [view.from, view.to];
        const middle = view.at ?? (low + high) / 2, half = (high - low) * factor / 2;
        const [from, to] = [Math.max(least, middle - half), Math.min(most, middle + half)];
        if (from <= least && to >= most) zoom(null, null);
        else if (to - from > (most - least) * 1e-5) zoom(from, to);
    }

    let waiting = false;
    function aim(at, source) {
        view.at = at;
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => {
            waiting = false;
            charts.forEach((chart) => chart.aim());
            say(source);
        });
    }

    /** Marks near the cross-hair, in the toolbar. */
    function say(chart) {
        const out = document.getElementById("where");
        if (view.at === null) { out.textContent = ""; return; }
        const near = (chart.area.high - chart.area.low) * 5 / chart.area.w, said = [];
        data.runs.forEach((run, r) => run.pins.forEach((pin) => {
            const clock = data.clocks[2 * r];
            if (Math.abs(clock[view.axis][pin.at] - view.at) <= near) said.push((data.runs.length > 1 ? run.name + ", " : "") + `step ${whole(clock.step[pin.at])}: ${pin.text}`);
        }));
        out.textContent = place(view.at) + (said.length ? " · " + said.slice(0, 3).join(" · ") : "");
    }

    function toolbar() {
        const bar = document.getElementById("toolbar"), choices = [];
        const button = (text, title, act) => {
            const made = make("button", { type: "button", class: "tool", title }, bar, text);
            made.onclick = act;
            return made;
        };
        for (const axis in AXES) {
            const made = button(AXES[axis], "horizontal axis: " + AXES[axis], () => {
                Object.assign(view, { axis, from: null, to: null, at: null });
                choices.forEach(([name, b]) => b.setAttribute("aria-pressed", String(name === axis)));
                drawAll();
            });
            made.setAttribute("aria-pressed", String(axis === view.axis));
            choices.push([axis, made]);
        }
        make("span", { class: "gap" }, bar);
        button("+", "zoom in (or drag over a chart)", () => closer(0.5)).setAttribute("aria-label", "zoom in");
        button("−", "zoom out", () => closer(2)).setAttribute("aria-label", "zoom out");
        button("all", "show everything (double click)", () => zoom(null, null));
        make("output", { id: "where", "aria-live": "polite" }, bar);
        document.querySelectorAll(".marks").forEach((marks) => { marks.hidden = false; });
    }

    function theme() {
        const root = document.documentElement, button = make("button", { type: "button", class: "tool theme" });
        const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
        const show = () => { button.textContent = dark() ? "light" : "dark"; button.title = `show the page ${button.textContent}`; };
        button.onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; show(); };
        show();
        document.querySelector("header").append(button);
    }

    // ---- tokens of completions

    /** What colours can stand for: index of the number, colour, words. */
    const SHADES = [
        { name: "probability", at: 0, ends: ["0", "1"], alpha: (v) => 0.7 * (1 - Math.exp(v)) ** 1.3, color: () => "213,94,0" },
        { name: "entropy", at: 1, ends: ["0", "high"], alpha: (v, most) => 0.7 * v / most, color: () => "0,114,178" },
        { name: "advantage", at: 2, ends: ["−", "+"], alpha: (v, most) => 0.65 * Math.abs(v) / most, color: (v) => (v < 0 ? "213,94,0" : "0,114,178") },
    ];

    /** Colours and read-out of a section's tokens; its bar has the legend. */
    function tokens(bar) {
        const section = bar.closest("section"), all = [...section.querySelectorAll(".tokens b")], told = bar.querySelector("output");
        const numbers = new Map(all.map((b) => [b, b.dataset.n.split(" ").map((n) => (n === "" ? null : Number(n)))]));
        const ramp = bar.querySelector(".ramp"), [low, high] = bar.querySelectorAll(".scale span"), buttons = [];
        const paint = (shade) => {
            const most = Math.max(1e-9, ...all.map((b) => Math.abs(numbers.get(b)[shade.at] ?? 0)));
            for (const b of all) {
                const v = numbers.get(b)[shade.at];
                b.style.background = v === null ? "none" : `rgba(${shade.color(v)},${shade.alpha(v, most).toFixed(3)})`;
            }
            [low.textContent, high.textContent] = shade.ends;
            const [a, b] = [["213,94,0,.7", "213,94,0,0"], ["0,114,178,0", "0,114,178,.7"], ["213,94,0,.65", "0,114,178,.65"]][shade.at];
            ramp.style.background = `linear-gradient(90deg,rgba(${a}),${shade.at === 2 ? "transparent," : ""}rgba(${b}))`;
            told.textContent = shade.name + " of the token";
            buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(shades[i] === shade)));
        };
        const shades = SHADES.filter((shade) => all.some((b) => numbers.get(b)[shade.at] !== null));
        for (const shade of shades.length > 1 ? shades : []) {
            const button = make("button", { type: "button", class: "tool", "aria-pressed": String(shade.at === 0) }, null, shade.name);
            button.onclick = () => paint(shade);
            bar.insertBefore(button, bar.children[buttons.length]);
            buttons.push(button);
        }
        let current = null;
        const show = (b) => {
            current?.classList.remove("at");
            current = b;
            b.classList.add("at");
            const [l, h, adv] = numbers.get(b), parts = [];
            if (l !== null) parts.push(`probability ${number(Math.exp(l))} (log ${number(l)})`);
            if (h !== null) parts.push(`entropy ${number(h)} nats`);
            if (adv !== null) parts.push(`advantage ${number(adv)}`);
            told.textContent = `“${b.textContent}”: ${parts.join(", ") || "no numbers"}`;
        };
        for (const line of section.querySelectorAll(".tokens")) {
            line.onpointerover = line.onclick = (event) => {
                const b = event.target.closest("b");
                if (b) show(b);
            };
            line.onkeydown = (event) => {
                const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], own = line.querySelectorAll("b");
                if (!by || !own.length) return;
                const i = [...own].indexOf(current);
                show(own[Math.min(Math.max(i < 0 ? 0 : i + by, 0), own.length - 1)]);
                event.preventDefault();
            };
        }
    }

    // ---- begin

    theme();
    document.querySelectorAll(".shade").forEach(tokens);
    // On paper the settings of a single run are in the open; those of several are in the table of differences.
    const settings = document.querySelector("#settings .body > details:first-child");
    if (settings) {
        let wasOpen = settings.open;
        addEventListener("beforeprint", () => { wasOpen = settings.open; settings.open = true; });
        addEventListener("afterprint", () => { settings.open = wasOpen; });
    }
    if (data.charts.length) {
        for (const figure of document.querySelectorAll("[data-chart]")) charts.push(new Chart(figure, data.charts[figure.dataset.chart]));
        toolbar();
        drawAll();
        let width = document.body.clientWidth;
        new ResizeObserver(() => {
            if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawAll(); }
        }).observe(document.body);
        addEventListener("beforeprint", () => { aim(null, charts[0]); drawAll(true); });
        addEventListener("afterprint", () => drawAll());
    }
})();
