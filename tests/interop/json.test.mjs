// JSON as znlrun and JavaScript read it: random texts, whole and damaged, must be accepted or refused by both,
// mean the same, and have the signature and the canonical form that JavaScript peers give them. SPDX-License-Identifier: MIT
import test from "node:test";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const TEXTS = 4000;
const DAMAGES = 6;

// The same numbers in every run (mulberry32).
let state = 20;
function below(limit) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
}
const pick = (list) => list[below(list.length)];

const PIECES = ["", "a", "b", "id", "a longer piece of text", "\\n", '\\"', "\\\\", "\\/", "\\u0041", "\\u00e9",
    "\\u20ac", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\u0000", "\\u001f", "\u007f", "\u2028", "é", "中", "😀",
    "0123456789abcdef", "0", "7", "10", "4294967295"];
const space = () => pick(["", "", "", "", " ", "\n", "\t\r "]);
const string = () => `"${Array.from({ length: below(4) }, () => pick(PIECES)).join("")}"`;
const number = () => pick(["", "-"]) + pick([
    () => String(below(10)), () => String(below(1e6)), () => `${below(1000)}.${below(1e6)}`, () => `${below(10)}e${below(400)}`,
    () => `${below(1e6)}.${below(100)}E-${below(400)}`, () => String(2 ** 53 - 2 + below(3)), () => String(below(1e9) / 7919),
    () => "0." + "0".repeat(below(12)) + (1 + below(1e9))])();
function value(depth) {
    const make = pick(depth > 0 ? [string, number, word, object, list, object, list] : [string, number, word]);
    return space() + make(depth) + space();
}
const word = () => pick(["null", "true", "false"]);
const items = (make) => Array.from({ length: below(5) }, make).join(",");
const object = (depth) => `{${items(() => `${space()}${string()}${space()}:${value(depth - 1)}`)}${space()}}`;
const list = (depth) => `[${items(() => value(depth - 1))}${space()}]`;

const BYTES = Buffer.from('{}[]:,"\\u0123456789+-.eEtrufalsn \n\t/\x01\x00');
function damage(bytes) {
    const at = below(bytes.length);
    const byte = Buffer.of(below(4) ? BYTES[below(BYTES.length)] : below(256));
    const kind = below(3);
    return Buffer.concat([bytes.subarray(0, at), kind === 1 ? Buffer.alloc(0) : byte, bytes.subarray(kind === 2 ? at : at + 1)]);
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
function parse(bytes) {
    try {
        return { value: JSON.parse(decoder.decode(bytes)) };
    } catch {
        return undefined;
    }
}

// Spec, section 10.
function signature(v) {
    if (v === null) return "null";
    if (Array.isArray(v)) return `array:[${v.map(signature).join(",")}]`;
    if (typeof v === "object") {
        return `object:{${Object.keys(v).sort().map((key) => `${JSON.stringify(key)}:${signature(v[key])}`).join(",")}}`;
    }
    return `${typeof v}:${typeof v === "string" ? JSON.stringify(v) : v}`;
}

// Lua has bytes, not UTF-16: halves of pairs become U+FFFD, and then names may be equal.
function wellFormed(v) {
    if (typeof v === "string") return v.toWellFormed();
    if (v === null || typeof v !== "object") return v;
    if (Array.isArray(v)) return v.map(wellFormed);
    return Object.fromEntries(Object.entries(v).map(([key, item]) => [key.toWellFormed(), wellFormed(item)]));
}
const hasHalves = (v) => JSON.stringify(wellFormed(v)) !== JSON.stringify(v);
const isFinite = (v) => typeof v === "number" ? Number.isFinite(v)
    : v === null || typeof v !== "object" || Object.values(v).every(isFinite);
const isExact = (v) => typeof v === "number" ? !Number.isInteger(v) || Math.abs(v) <= 2 ** 53
    : v === null || typeof v !== "object" || Object.values(v).every(isExact);

test("znlrun and JSON.parse agree", () => {
    const texts = [];
    for (let i = 0; i < TEXTS; i++) {
        let bytes = Buffer.from(value(4));
        texts.push(bytes);
        for (let n = 0; n < DAMAGES && bytes.length > 1; n++) texts.push(bytes = damage(bytes));
    }
    const folder = mkdtempSync(join(tmpdir(), "znl-json-"));
    const file = join(folder, "texts");
    writeFileSync(file, texts.map((bytes) => bytes.toString("hex")).join("\n") + "\n");
    let lines;
    try {
        const peer = fileURLToPath(new URL("json_peer.lua", import.meta.url));
        lines = execFileSync(process.env.ZNLRUN, [peer, file], { maxBuffer: 1 << 28 }).toString().trimEnd().split("\n");
    } finally {
        rmSync(folder, { recursive: true });
    }
    assert.equal(lines.length, texts.length);
    let accepted = 0;
    lines.forEach((line, i) => {
        const shown = texts[i].toString("latin1");
        const expected = parse(texts[i]);
        assert.equal(line !== "refused", expected !== undefined, shown);
        if (expected === undefined) return;
        accepted++;
        const [theirs, written, canonical] = line.split(" ").map((text) => Buffer.from(text, "hex").toString());
        assert.equal(canonical, JSON.stringify(expected.value), shown);
        if (isExact(expected.value)) assert.equal(theirs, signature(expected.value), shown);
        if (!isFinite(expected.value)) {
            assert.match(written, /^the number -?inf/);
        } else if (!hasHalves(expected.value)) {
            assert.equal(signature(JSON.parse(written)), signature(expected.value), shown);
        } else {
            assert.doesNotThrow(() => JSON.parse(written), shown);
        }
    });
    assert.ok(accepted > TEXTS * 1.2 && texts.length - accepted > TEXTS, `${accepted} of ${texts.length} accepted`);
});
