// The default transcode as znlrun and serialize-json read and write it: random values survive the way through znlrun,
// and damaged texts mean the same to both. SPDX-License-Identifier: MIT
import test from "node:test";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const resolve = createRequire(import.meta.url).resolve;
const original = createRequire(resolve("cluster-client"))("serialize-json");

const VALUES = 1500;
const DAMAGES = 5;

// The same numbers in every run (mulberry32).
let state = 7;
function below(limit) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
}
const pick = (list) => list[below(list.length)];
const times = (limit, make) => Array.from({ length: below(limit) }, make);

const PIECES = ["", "a", "id", " ", "+", "|", "^", "%", "%2B", "%2b", "0123456789abcdef", "a longer piece of text", "@$*#]-1",
    "\n", "\0", "é", "中", "😀", "\u2028", "7"];
const string = () => times(6, () => pick(PIECES)).join("");
const number = () => pick([() => below(40), () => -below(1e6), () => below(1e9) / 7919, () => below(1e6) * 1e9, () => 2 ** 53 - below(3),
    () => -(10 ** (below(600) - 300)) * 1.7, () => NaN, () => Infinity, () => -Infinity, () => 5e-324])();
const word = () => pick([true, false, null, undefined]);
const date = () => new Date(below(2) ? below(1e9) * 4000 : -below(1e9) * 1e6);
const bytes = () => Buffer.from(times(pick([4, 40, 200]), () => below(256)));
const list = (depth) => times(6, () => value(depth - 1));
const object = (depth) => Object.fromEntries(times(6, () => [string(), value(depth - 1)]));
const error = (depth) => Object.assign(new (pick([Error, TypeError]))(string()),
    below(2) ? { name: "SomeError", code: pick(["E", 404]) } : {}, { more: value(depth - 1) });
const value = (depth) => pick(depth > 0 ? [string, number, word, date, bytes, list, object, list, object, error]
    : [string, string, number, number, word, date, bytes])(depth);

const MARKS = Buffer.from("@$*#]]|||^%+-0123456789ABZaz. e\xff", "latin1");
function damage(text) {
    const at = below(text.length);
    const kind = below(3);
    const byte = Buffer.of(pick(MARKS));
    return Buffer.concat([text.subarray(0, at), kind === 1 ? Buffer.alloc(0) : byte, text.subarray(kind === 2 ? at : at + 1)]);
}

function decode(text) {
    try {
        return { value: original.decode(text) };
    } catch {
        return undefined;
    }
}

// What both must agree on: a field that is undefined is not there, the sign of 0 and low digits past 2^53 are lost, and a
// decoder's own stack is no part of the text.
function plain(v) {
    if (typeof v === "number") return Number.isInteger(v) && Math.abs(v) > 2 ** 53 ? v.toPrecision(12) : v === 0 ? 0 : v;
    if (v === null || typeof v !== "object") return v;
    if (Buffer.isBuffer(v)) return { bytes: v.toString("hex") };
    if (v instanceof Date) return { date: v.getTime() };
    if (Array.isArray(v)) return v.map(plain);
    const names = Object.getOwnPropertyNames(v).filter((name) => v[name] !== undefined &&
        !(name === "stack" && v instanceof Error && String(v.stack).includes("serialize-json")));
    const fields = new Map(names.sort().map((name) => [name, plain(v[name])]));
    return v instanceof Error ? { error: fields } : fields;
}

const sections = (text) => {
    const all = text.toString("latin1").split("^");
    return { strings: Buffer.from(all[0], "latin1"), nodes: all[4] };
};
const isUtf8 = (buffer) => Buffer.from(buffer.toString()).equals(buffer);

// Where we refuse, or see less, on purpose (codec/WIRE.md, "Transcode").
const isStricter = (text) => !isUtf8(sections(text).strings) || /[*$#]/.test(sections(text).nodes);

// Where we mean something else: a string inside a byte buffer, of which JavaScript makes a number; an object that ends
// behind a name, where the original takes the end for a value and goes on with what belongs to the object around it.
function isOther(text) {
    const { strings, nodes } = sections(text);
    const open = [];
    for (const [token] of nodes.matchAll(/[@$*#\]]|[^|@$*#\]]+/g)) {
        if (token === "]") {
            const { mark, items } = open.pop() ?? {};
            if ((mark === "$" || mark === "#") && items % 2 === 1) return true;
            continue;
        }
        if (open.length > 0) open.at(-1).items++;
        if ("@$*#".includes(token)) open.push({ mark: token, items: 0 });
    }
    return strings.length > 0 && nodes.includes("*");
}

test("znlrun and serialize-json agree", () => {
    const texts = [];
    for (let i = 0; i < VALUES; i++) {
        let text = original.encode(value(4));
        texts.push({ text, isWhole: true });
        for (let n = 0; n < DAMAGES && text.length > 1; n++) texts.push({ text: (text = damage(text)), isWhole: false });
    }
    const folder = mkdtempSync(join(tmpdir(), "znl-transcode-"));
    const file = join(folder, "texts");
    writeFileSync(file, texts.map(({ text }) => text.toString("hex") + "\n").join(""));
    const peer = fileURLToPath(new URL("transcode_peer.lua", import.meta.url));
    const out = execFileSync(process.env.ZNLRUN ?? "build/znlrun", [peer, file], { encoding: "utf8", maxBuffer: 1 << 28 });
    rmSync(folder, { recursive: true });
    const answers = out.trimEnd().split("\n");
    assert.equal(answers.length, texts.length);
    const count = { same: 0, refused: 0, stricter: 0 };
    texts.forEach(({ text, isWhole }, i) => {
        const expected = decode(text);
        const place = JSON.stringify(text.toString("latin1"));
        if (expected === undefined) {
            assert.match(answers[i], /^PROTO /, place);
            count.refused++;
            return;
        }
        if (/^[A-Z]+ /.test(answers[i])) {
            const isDate = /^INVALID a date out of range/.test(answers[i]);
            assert.ok(!isWhole && (isDate || isStricter(text)), `${answers[i]}: ${place}`);
            count.stricter++;
            return;
        }
        const actual = decode(Buffer.from(answers[i], "hex"));
        if (!isWhole && isOther(text)) return;
        assert.deepEqual(plain(actual.value), plain(expected.value), place);
        count.same++;
    });
    assert.ok(count.same > VALUES && count.refused > 100 && count.stricter > 100, JSON.stringify(count));
});
