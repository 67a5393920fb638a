// Opens the pages that tests/ui/report.rs writes in headless Chromium, over its debugging pipe, and fails on any error in the console, any
// request, any chart that is not drawn, and any value at the cross-hair that is not the one in events.jsonl. No npm packages.
// usage: node check.mjs FOLDER BROWSER [PICTURES]
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [folder, browser, pictures] = process.argv.slice(2);
const failures = [];
const expect = (right, what) => { if (!right) failures.push(what); };

// ---- Chromium's protocol: JSON messages that end in a zero byte, on file descriptors 3 and 4

class Browser {
    constructor(program, profile) {
        const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run",
            "--disable-background-networking", "--user-data-dir=" + profile, "about:blank"];
        this.child = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
        this.waiting = new Map();
        this.heard = () => {};
        this.next = 1;
        let rest = Buffer.alloc(0);
        this.child.stdio[4].on("data", (bytes) => {
            rest = Buffer.concat([rest, bytes]);
            for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
                this.take(JSON.parse(rest.subarray(0, end).toString()));
                rest = rest.subarray(end + 1);
            }
        });
        this.gone = new Promise((_, fail) => this.child.on("exit", (code) => fail(new Error(`the browser ended by itself (${code})`))));
        this.gone.catch(() => {});
    }
    take(message) {
        const answer = this.waiting.get(message.id);
        if (!answer) return this.heard(message);
        this.waiting.delete(message.id);
        if (message.error) answer.fail(new Error(answer.method + ": " + message.error.message));
        else answer.done(message.result);
    }
    send(method, params = {}) {
        const id = this.next++;
        const answer = new Promise((done, fail) => this.waiting.set(id, { done, fail, method }));
        this.child.stdio[3].write(JSON.stringify({ id, method, params, sessionId: this.session }) + "\0");
        return Promise.race([answer, this.gone]);
    }
    async open() {
        const { targetInfos } = await this.send("Target.getTargets");
        const { targetId } = targetInfos.find((t) => t.type === "page");
        this.session = (await this.send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
        for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.send(domain + ".enable");
    }
    async value(expression) {
        const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
        if (exceptionDetails) throw new Error(expression + ": " + (exceptionDetails.exception?.description || exceptionDetails.text));
        return result.value;
    }
    async show(file, { width, height, dark = false, phone = false }) {
        const scheme = { name: "prefers-color-scheme", value: dark ? "dark" : "light" };
        await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: phone });
        await this.send("Emulation.setEmulatedMedia", { media: "", features: [scheme] });
        const loaded = new Promise((done) => { this.loaded = done; });
        await this.send("Page.navigate", { url: "file://" + resolve(folder, file) });
        await loaded;
    }
    async picture(name, whole = false) {
        if (!pictures) return;
        mkdirSync(pictures, { recursive: true });
        const { data } = await this.send("Page.captureScreenshot", { captureBeyondViewport: whole });
        writeFileSync(join(pictures, name + ".png"), Buffer.from(data, "base64"));
    }
    frame() { return this.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"); }
    async mouse(type, x, y, more = {}) { await this.send("Input.dispatchMouseEvent", { type, x, y, ...more }); }
    async hover(x, y) { await this.mouse("mouseMoved", x, y); await this.frame(); }
    async press(key) {
        for (const type of ["keyDown", "keyUp"]) await this.send("Input.dispatchKeyEvent", { type, key, code: key });
        await this.frame();
    }
}

// ---- what the runs' files say

function events(run) {
    return readFileSync(join(folder, run, "events.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
}

/** A metric's last value at each step. */
function truth(run, metric) {
    const found = new Map();
    for (const e of events(run)) if (e.event === "Step" && typeof e[metric] === "number") found.set(e.step, e[metric]);
    return found;
}

/** The script writes axes and columns as window and still pictures do: the tests of crates/core check `ticks.json` and `numbers.json`. */
function ticks() {
    const at = (name) => new URL(name, import.meta.url), source = readFileSync(at("../../../assets/report/report.js"), "utf8");
    const between = (from, to) => source.slice(source.indexOf(from), source.indexOf(to));
    const tools = between("const raised", "    function duration"), marks = between("// ---- ticks", "// ---- a chart");
    const view = { axis: "step" }, js = new Function("view", `${tools}\n${marks}\nreturn { steps, logTicks, labelled, units, column };`)(view);
    for (const [values, wanted] of JSON.parse(readFileSync(at("numbers.json"), "utf8"))) {
        const found = JSON.stringify(js.column(values));
        expect(found === JSON.stringify(wanted), `the column ${values}: ${found}`);
    }
    for (const [kind, low, high, most, wanted] of JSON.parse(readFileSync(at("ticks.json"), "utf8"))) {
        view.axis = kind === "seconds" ? "seconds" : "step";
        const found = kind === "log" ? js.logTicks(low, high, most) : kind === "linear" ? js.labelled(js.steps(low, high, most)) : js.units(low, high, most);
        const labels = JSON.stringify(found.map(([, label]) => label));
        expect(labels === JSON.stringify(wanted), `${kind} axis from ${low} to ${high}: ${labels}`);
    }
}

/** The number that a cell of a legend shows. */
function shown(text) {
    const raised = (t) => [...t].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c)).map((i) => (i === 0 ? "-" : String(i - 1))).join("");
    return Number(text.replace(/,/g, "").replace(/−/g, "-").replace(/·10([⁻⁰-⁹¹²³]+)/, (_, e) => "e" + raised(e)));
}
const close = (a, b) => Math.abs(a - b) <= 1.1e-3 * Math.max(Math.abs(b), 1e-4);

// ---- checks

const LEGEND = (id) => `[...document.querySelectorAll("#chart-${id} .legend tbody tr")].map((row) => [...row.querySelectorAll("th,td")].map((c) => c.textContent))`;
const WHERE = (id) => `document.querySelector("#chart-${id} .where").textContent`;
const BOX = (selector) => `(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView({ block: "center" }); const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()`;

async function drawn(page, name, charts) {
    const found = await page.value(`[...document.querySelectorAll("figure[data-chart]")].map((f) => [f.id, [...f.querySelectorAll("svg.drawn path.line")].filter((p) => p.getTotalLength() > 0).length + f.querySelectorAll("svg.drawn circle").length, f.querySelectorAll(".legend tbody tr").length, f.querySelectorAll("svg.drawn text").length])`);
    expect(found.length >= charts, `${name}: ${found.length} charts, at least ${charts} were expected`);
    for (const [id, lines, rows, texts] of found) expect(lines > 0 && rows > 0 && texts >= 3, `${name}: ${id} is not drawn (${lines} lines, ${texts} texts)`);
    const [wide, room] = await page.value("[document.documentElement.scrollWidth, innerWidth]");
    expect(wide <= room, `${name}: the page is ${wide} pixels wide, the window ${room}`);
    const still = await page.value(`[...document.querySelectorAll("figure:not([data-chart]) svg")].every((s) => s.getBoundingClientRect().width > 100)`);
    expect(still, `${name}: a still picture is not seen`);
}

async function crossHair(page) {
    const [x, y, w, h] = await page.value(BOX("#chart-loss svg.drawn"));
    const loss = truth("base", "loss"), norm = truth("base", "grad_norm");
    let before = 0;
    for (const part of [0.3, 0.5, 0.7]) {
        await page.hover(x + w * part, y + h / 2);
        const where = await page.value(WHERE("loss")), step = Number(where.replace(/step |,/g, ""));
        expect(step > before && Math.abs(step - 200 * (part - 0.04)) < 20, `cross-hair at ${part}: ${where}`);
        before = step;
        const rows = await page.value(LEGEND("loss"));
        expect(close(shown(rows[0][1]), loss.get(step)), `loss at ${where}: ${rows[0][1]}, the log has ${loss.get(step)}`);
        expect(rows[0][2] !== "" && Math.abs(shown(rows[0][2]) - 2.05) < 0.2, `smoothed loss at ${where}: ${rows[0][2]}`);
        // The other charts follow.
        expect((await page.value(WHERE("gradient-norm"))) === where, `gradient norm does not follow: ${await page.value(WHERE("gradient-norm"))}`);
        const other = (await page.value(LEGEND("gradient-norm")))[0][1];
        expect(close(shown(other), norm.get(step)), `gradient norm at ${where}: ${other}, the log has ${norm.get(step)}`);
        expect(await page.value(`document.querySelector("#chart-loss .cross").getAttribute("visibility") === "visible" && document.querySelectorAll("#chart-loss .dots circle").length > 1`), "no cross-hair is seen");
    }
    await page.picture("cross-hair");
    await page.value(`document.querySelector("#chart-loss svg.drawn").focus()`);
    await page.press("ArrowRight");
    expect((await page.value(WHERE("loss"))) === `step ${before + 1}`, `arrow key: ${await page.value(WHERE("loss"))} after ${before}`);
    await page.press("Escape");
    expect((await page.value(WHERE("loss"))) === "end", "Escape leaves the cross-hair");
}

async function zooming(page) {
    const [x, y, w, h] = await page.value(BOX("#chart-loss svg.drawn"));
    const left = { button: "left", buttons: 1, clickCount: 1 };
    await page.mouse("mouseMoved", x + w * 0.5, y + h / 2);
    await page.mouse("mousePressed", x + w * 0.5, y + h / 2, left);
    await page.mouse("mouseMoved", x + w * 0.6, y + h / 2, { buttons: 1 });
    await page.mouse("mouseMoved", x + w * 0.75, y + h / 2, { buttons: 1 });
    await page.mouse("mouseReleased", x + w * 0.75, y + h / 2, left);
    await page.hover(x + w * 0.1, y + h / 2);
    const step = Number((await page.value(WHERE("speed"))).replace(/step |,/g, ""));
    expect(step > 80 && step < 120, `after zooming to the middle the left is at step ${step}`);
    const toolbar = (text) => page.value(`[...document.querySelectorAll("#toolbar button")].find((b) => b.textContent === "${text}").click()`);
    await toolbar("all");
    await page.hover(x + w * 0.1, y + h / 2);
    expect(Number((await page.value(WHERE("loss"))).replace(/step |,/g, "")) < 30, "all is not all");
    await toolbar("tokens");
    await page.hover(x + w * 0.5, y + h / 2);
    const where = await page.value(WHERE("loss")), tokens = Number(where.replace(/ tokens|,/g, ""));
    const value = (await page.value(LEGEND("loss")))[0][1];
    expect(close(shown(value), truth("base", "loss").get(tokens / 768)), `loss at ${where}: ${value}`);
    await toolbar("time of training");
    await page.hover(x + w * 0.5, y + h / 2);
    expect(/ s$/.test(await page.value(WHERE("loss"))), `time: ${await page.value(WHERE("loss"))}`);
    await toolbar("step");
    await toolbar("+");
    await toolbar("−");
}

/** The page begins with what was found; legends show all lines; marks of checkpoints do not cover each other. */
async function findings(page) {
    const found = await page.value(`[...document.querySelectorAll("header .findings li")].map((li) => li.textContent)`);
    expect(found.length > 0 && found.every((text) => /95\s% interval/.test(text)), `findings: ${found.join(" | ")}`);
    const hidden = await page.value(`[...document.querySelectorAll(".chart .scroll")].filter((s) => s.scrollHeight > s.clientHeight + 1).length`);
    expect(hidden === 0, `${hidden} legends are cut`);
    const near = await page.value(`(() => {
        const at = [...document.querySelectorAll("#chart-loss .pin.save")].map((p) => p.getBoundingClientRect().left).sort((a, b) => a - b);
        return at.filter((x, i) => i > 0 && x - at[i - 1] < 8).length;
    })()`);
    expect(near === 0, `${near} marks of checkpoints lie on one another`);
}

/** A table that is wider than a phone scrolls, and its first column stays. */
async function narrow(page) {
    const [moved, kept] = await page.value(`(() => {
        const box = document.querySelector("#facts .scroll"), head = box.querySelector("tbody th");
        box.scrollLeft = 150;
        return [box.scrollLeft, Math.abs(head.getBoundingClientRect().left - box.getBoundingClientRect().left) < 2];
    })()`);
    expect(moved > 20 && kept, `the table of runs: scrolled by ${moved}, first column ${kept ? "kept" : "gone"}`);
}

async function choices(page) {
    const paths = `document.querySelectorAll("#chart-loss path.line").length`;
    const before = await page.value(paths);
    await page.value(`document.querySelector("#chart-loss .legend button").click()`);
    expect((await page.value(paths)) === before - 2, "a hidden line is still drawn");
    await page.value(`document.querySelector("#chart-loss .legend button").click()`);
    expect((await page.value(paths)) === before, "a line does not come back");
    const ticks = `[...document.querySelectorAll("#chart-loss text")].map((t) => t.textContent).join()`;
    const linear = await page.value(ticks);
    await page.value(`document.querySelector("#chart-loss figcaption button").click()`);
    expect((await page.value(ticks)) !== linear, "a logarithmic axis has the same labels");
    await page.value(`document.querySelector("#chart-loss figcaption button").click()`);
    const ground = `getComputedStyle(document.body).backgroundColor`;
    const light = await page.value(ground);
    await page.value(`document.querySelector(".theme").click()`);
    expect((await page.value(ground)) !== light, "the switch does not make the page dark");
    await page.picture("dark");
    await page.value(`document.querySelector(".theme").click()`);
}

async function tokens(page) {
    // The second token of a completion has log p -2, entropy 1.2, advantage -0.7.
    const [x, y, w, h] = await page.value(BOX("details[open] .tokens b:nth-child(2)"));
    await page.hover(x + w / 2, y + h / 2);
    const told = await page.value(`document.querySelector("#completions output").textContent`);
    expect(/is”: probability 0\.1353 .*entropy 1\.2 nats, advantage −0\.7/.test(told), `a token's numbers: ${told}`);
    const color = `getComputedStyle(document.querySelector("details[open] .tokens b:nth-child(2)")).backgroundColor`;
    const before = await page.value(color);
    await page.value(`document.querySelectorAll("#completions .shade button")[1].click()`);
    expect((await page.value(color)) !== before, "entropy has the colour of probability");
}

/** Headings of a printed page: text, sheet, and points above the lower edge of the sheet's text, from the outline of the PDF. */
function headings(pdf) {
    const text = pdf.toString("latin1"), MARGIN = (14 / 25.4) * 72;
    const sheets = text.match(/\/Type \/Pages[^>]*\/Kids \[([^\]]*)\]|\/Kids \[([^\]]*)\]\s*>>/)?.slice(1).find(Boolean)?.match(/\d+(?= 0 R)/g) ?? [];
    const items = [...text.matchAll(/\/Title \(((?:\\.|[^\\)])*)\)\s*\/Dest \[(\d+) 0 R \/XYZ \S+ (\S+)/g)];
    return { sheets: sheets.length, all: items.map(([, title, sheet, y]) => ({ title, sheet: sheets.indexOf(sheet) + 1, above: Number(y) - MARGIN })) };
}

/** The printed report: its charts begin on the first sheet, it has at most twelve, and no heading is alone at the foot of one. */
async function sheets(page, name, wanted) {
    await page.show(name, { width: 1280, height: 900 });
    const { data } = await page.send("Page.printToPDF", { preferCSSPageSize: true, printBackground: true, generateDocumentOutline: true });
    const pdf = Buffer.from(data, "base64");
    if (pictures) writeFileSync(join(pictures, name.replace("html", "pdf")), pdf);
    const printed = headings(pdf), sections = await page.value(`[...document.querySelectorAll("h2")].map((h) => h.textContent)`);
    const first = await page.value(`document.querySelector(".charts h3").textContent`);
    const chart = printed.all.find((heading) => heading.title === first), charts = printed.all.find((heading) => heading.title === "Charts");
    expect(printed.sheets >= wanted && printed.sheets <= 13, `${name} is printed on ${printed.sheets} sheets`);
    expect(charts?.sheet === 1 && chart?.sheet === 1, `${name}: the charts begin on sheet ${chart?.sheet}, their heading is on ${charts?.sheet}`);
    expect(sections.every((title) => printed.all.some((heading) => heading.title === title)), `${name}: the outline has not every section`);
    for (const { title, sheet, above } of printed.all) {
        // A section's heading is followed by an introduction and what it introduces, others by a line at least.
        const least = sections.includes(title) ? 60 : 24;
        expect(above >= least, `${name}: the heading "${title}" is alone at the foot of sheet ${sheet}, ${above.toFixed(0)} points above its end`);
    }
}

async function paper(page) {
    await sheets(page, "one.html", 2);
    await sheets(page, "six.html", 5);
    await sheets(page, "three.html", 3);
    await page.send("Emulation.setEmulatedMedia", { media: "print" });
    expect(await page.value(`[...document.querySelectorAll("figure")].every((f) => getComputedStyle(f).breakInside === "avoid")`), "a chart may be cut by the edge of a sheet");
    expect(await page.value(`getComputedStyle(document.getElementById("toolbar")).display === "none"`), "buttons are printed");
    const lefts = await page.value(`[...new Set([...document.querySelectorAll(".charts figure")].slice(1).map((f) => f.getBoundingClientRect().left))]`);
    expect(lefts.length === 2, `charts do not stand in two columns on paper: ${lefts}`);
    expect(await page.value(`[...document.querySelectorAll("h2, h3, figcaption")].every((h) => getComputedStyle(h).breakAfter === "avoid")`), "a heading may stand alone at the foot of a sheet");
    await page.show("six.html", { width: 1280, height: 900 });
    await page.send("Emulation.setEmulatedMedia", { media: "print" });
    expect(await page.value(`[...document.querySelectorAll(".more li")].length > 0`), "six runs have no further findings");
    expect(await page.value(`[...document.querySelectorAll(".more li")].every((li) => li.checkVisibility())`), "further findings are not printed");
    await page.send("Emulation.setEmulatedMedia", { media: "" });
}

/** Where a long run has more values than are drawn, the least and the greatest of a stretch are shown, and they are in the log. */
async function long(page) {
    const [x, y, w, h] = await page.value(BOX("#chart-gradient-norm svg.drawn"));
    await page.hover(x + w * 0.9, y + h / 2);
    const where = await page.value(WHERE("gradient-norm")), step = Number(where.replace(/step |,/g, ""));
    const row = (await page.value(LEGEND("gradient-norm"))).find((r) => r[0].startsWith("long"));
    const [low, high] = row[1].split(" … ").map(shown);
    const norm = truth("long", "grad_norm");
    const there = [...norm].filter(([s]) => s >= step && s < step + 12).map(([, v]) => v);
    expect(close(low, Math.min(...there)) && close(high, Math.max(...there)), `${where}: ${row[1]}, the log has ${Math.min(...there)} to ${Math.max(...there)}`);
}

async function all(page) {
    page.heard = ({ method, params }) => {
        if (method === "Page.loadEventFired") page.loaded?.();
        if (method === "Runtime.exceptionThrown") failures.push("exception: " + (params.exceptionDetails.exception?.description || params.exceptionDetails.text));
        if (method === "Runtime.consoleAPICalled") failures.push(`console.${params.type}: ` + params.args.map((a) => a.value ?? a.description).join(" "));
        if (method === "Log.entryAdded" && params.entry.level !== "verbose") failures.push(`${params.entry.level}: ${params.entry.text} ${params.entry.url ?? ""}`);
        if (method === "Network.requestWillBeSent" && !/^(file|about):/.test(params.request.url)) failures.push("request: " + params.request.url.slice(0, 100));
    };
    ticks();
    await page.open();
    await page.show("one.html", { width: 1280, height: 900 });
    await drawn(page, "one.html", 9);
    await page.picture("desktop");
    await findings(page);
    await crossHair(page);
    await zooming(page);
    await choices(page);
    await page.show("three.html", { width: 1280, height: 900 });
    await drawn(page, "three.html", 12);
    await tokens(page);
    await page.picture("tokens");
    await long(page);
    await paper(page);
    await page.show("three.html", { width: 390, height: 844, dark: true, phone: true });
    await drawn(page, "three.html on a phone", 12);
    await page.picture("phone");
    await narrow(page);
    await page.show("empty.html", { width: 1280, height: 900 });
    expect((await page.value("document.querySelectorAll('figure').length")) === 0, "an empty run has charts");
    await page.send("Emulation.setScriptExecutionDisabled", { value: true });
    await page.show("one.html", { width: 1280, height: 900 });
    const still = await page.value(`[...document.querySelectorAll("figure")].every((f) => f.querySelector("svg[role=img]").getBoundingClientRect().height > 100)`);
    expect(still, "without scripts a chart is missing");
    await page.picture("no-script");
}

const profile = mkdtempSync(join(tmpdir(), "check-report-"));
const page = new Browser(browser, profile);
const patience = setTimeout(() => { console.error("check-report: the browser does not answer"); page.child.kill("SIGKILL"); process.exit(1); }, 240_000);
try {
    await all(page);
} catch (error) {
    failures.push(String(error.stack || error));
}
clearTimeout(patience);
page.child.removeAllListeners("exit");
const ended = new Promise((done) => page.child.on("exit", done));
page.child.kill();
await Promise.race([ended, new Promise((done) => setTimeout(done, 5000))]);
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
for (const failure of failures) console.error("check-report: " + failure);
if (failures.length) process.exit(1);
console.log("check-report: no errors, no requests, charts drawn, values right");
