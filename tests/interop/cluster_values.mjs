// cluster_values.mjs - values as JSON lines carry them between the tests of cluster-client and its
// peers, in the notation of the vectors: what JSON cannot hold is {"$": kind, ...}.
//
// SPDX-License-Identifier: MIT

const ODD = { NaN, Infinity, "-Infinity": -Infinity, "-0": -0 };

const fields = (object, each) =>
    Object.fromEntries(Object.entries(object).map(([name, value]) => [name, each(value)]));

/** A value in that notation. */
export function pack(value) {
    if (value === undefined) return { $: "undefined" };
    if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0)))
        return { $: "number", v: Object.is(value, -0) ? "-0" : String(value) };
    if (value === null || typeof value !== "object") return value;
    if (value instanceof Date) return { $: "date", ms: value.getTime() };
    if (Buffer.isBuffer(value)) return { $: "buffer", hex: value.toString("hex") };
    if (value instanceof Error) {
        const { message, stack } = value;
        return { $: "error", v: fields({ message, stack, ...value }, pack) };
    }
    if (Array.isArray(value)) return Array.from(value, pack);
    return fields(value, pack);
}

const UNPACK = {
    undefined: () => undefined,
    number: ({ v }) => ODD[v],
    date: ({ ms }) => new Date(ms),
    buffer: ({ hex }) => Buffer.from(hex, "hex"),
    error: ({ v }) => Object.assign(new Error(v.message), fields(v, unpack)),
    utf16: ({ units }) => String.fromCharCode(...units),
};

/** The value again. */
export function unpack(value) {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(unpack);
    return typeof value.$ === "string" ? UNPACK[value.$](value) : fields(value, unpack);
}
