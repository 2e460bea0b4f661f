// cluster_transcode.mjs - the texts that cluster-client puts values into, written from the
// specification: strings ^ integers ^ floats ^ dates ^ node.
//
// SPDX-License-Identifier: MIT

const ESCAPES = { " ": "+", "+": "%2B", "|": "%7C", "^": "%5E", "%": "%25" };
const UNESCAPES = Object.fromEntries(Object.entries(ESCAPES).map(([from, to]) => [to, from]));
const CONSTANTS = new Map([
    [true, -1],
    [false, -2],
    [null, -3],
    ["", -4],
    [undefined, -5],
]);
const constantOf = (index) => [...CONSTANTS].find(([, at]) => at === index)?.[0];
const base36 = (number) => number.toString(36).toUpperCase();

/** The bytes of a value. */
export function encode(value) {
    const sections = { strings: [], integers: [], floats: [], dates: [] };
    const entry = (section, text) => ({ section, at: sections[section].push(text) - 1 });
    const enter = (value) => {
        if (CONSTANTS.has(value) && !Object.is(value, -0)) return CONSTANTS.get(value);
        if (typeof value === "string")
            return entry(
                "strings",
                value.replace(/[ +|^%]/g, (c) => ESCAPES[c]),
            );
        if (typeof value === "number")
            return Number.isInteger(value)
                ? entry("integers", base36(value))
                : entry("floats", String(value));
        if (value instanceof Date) return entry("dates", base36(value.getTime()));
        if (Buffer.isBuffer(value)) return ["*", [...value].map(enter)];
        if (Array.isArray(value)) return ["@", value.map(enter)];
        const { message, stack } = value;
        const named = value instanceof Error ? { message, stack, ...value } : value;
        const items = Object.entries(named).flatMap(([name, field]) => [enter(name), enter(field)]);
        return [value instanceof Error ? "#" : "$", items];
    };
    const root = enter(value);
    const names = Object.keys(sections);
    const base = (section) =>
        names
            .slice(0, names.indexOf(section))
            .reduce((sum, name) => sum + sections[name].length, 0);
    const bases = Object.fromEntries(names.map((name) => [name, base(name)]));
    const text = (node) => {
        if (typeof node === "number") return String(node);
        if (!Array.isArray(node)) return base36(bases[node.section] + node.at);
        const [mark, items] = node;
        const list = items.map(text).reduce((all, item) => all + (all ? "|" : "") + item, "");
        return `${mark}${list}]`;
    };
    const lists = names.map((name) => sections[name].join("|"));
    return Buffer.from([...lists, text(root)].join("^"));
}

const NODE = { "@": true, $: true, "*": true, "#": true };
const pairs = (items) =>
    Array.from({ length: Math.ceil(items.length / 2) }, (_, i) => [items[2 * i], items[2 * i + 1]]);
const MAKE = {
    "@": (items) => items,
    "*": (items) => Buffer.from(items),
    $: (items) => Object.fromEntries(pairs(items)),
    "#": (items) => {
        const given = Object.fromEntries(pairs(items));
        return Object.assign(new Error(given.message), given);
    },
};

/** The value of a text. */
export function decode(bytes) {
    const [strings, integers, floats, dates, tree] = Buffer.from(bytes).toString().split("^");
    if (tree === undefined) throw new Error("not a transcode text");
    const list = (text, each) => (text === "" ? [] : text.split("|").map(each));
    const plain = (text) => text.replace(/\+|%2B|%7C|%5E|%25/g, (c) => UNESCAPES[c]);
    const values = [
        ...list(strings, plain),
        ...list(integers, (text) => Number.parseInt(text, 36)),
        ...list(floats, Number),
        ...list(dates, (text) => new Date(Number.parseInt(text, 36))),
    ];
    const tokens = tree.match(/[@$*#\]]|[^@$*#\]|]+/g) ?? [];
    let at = 0;
    const node = () => {
        const token = tokens[at++];
        if (!NODE[token]) {
            const index = Number.parseInt(token, 36);
            return index < 0 ? constantOf(index) : values[index];
        }
        const items = [];
        while (at < tokens.length && tokens[at] !== "]") items.push(node());
        at++;
        return MAKE[token](items);
    };
    return node();
}
