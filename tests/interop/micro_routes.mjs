// micro_routes.mjs - the routes of a micro peer: the patterns that matter in practice (spec,
// section 7): static segments, `:name`, `:name?`, `*`, `**` and `**:name`.
//
// SPDX-License-Identifier: MIT

/** The segments of a url: what stands before the first `/` goes, `.` and `..` are resolved. */
function segments(path) {
    let text = path.slice(Math.max(path.indexOf("/"), 0));
    if (!text.startsWith("/")) text = "/";
    const parts = text.slice(1).split("/");
    const out = [];
    let outside = false; // above the root nothing matches
    for (const part of parts) {
        if (part === ".") continue;
        if (part !== "..") out.push(part);
        else if (out.pop() === undefined) outside = true;
    }
    if (out.at(-1) === "") out.pop(); // a trailing slash
    return outside ? undefined : out;
}

/** Whether and how well `pattern` matches: [rank of each segment, params] or undefined. */
function match(pattern, url, at = 0, star = 0) {
    const rest = url.slice(at);
    const [here] = pattern.slice(at);
    if (here === undefined) return rest.length === 0 ? [[], {}] : undefined;
    const last = at === pattern.length - 1;
    if (here === "**") return [[0], { _: rest.join("/") }];
    if (here.startsWith("**:"))
        return rest.length > 0 ? [[0], { [here.slice(3)]: rest.join("/") }] : undefined;
    const optional = here.endsWith("?") || (here === "*" && last);
    if (rest.length === 0) return optional && last ? [[1], {}] : undefined;
    let rank, own;
    if (here === "*") [rank, own] = [1, { [star++]: rest[0] }];
    else if (here.startsWith(":")) {
        if (rest[0] === "") return undefined;
        [rank, own] = [2, { [here.slice(1).replace(/\?$/, "")]: rest[0] }];
    } else if (here === rest[0]) [rank, own] = [3, {}];
    else return undefined;
    const tail = match(pattern, url, at + 1, star);
    return tail && [[rank, ...tail[0]], { ...own, ...tail[1] }];
}

const better = (a, b) => {
    for (let i = 0; i < Math.max(a.length, b.length); i++)
        if ((a[i] ?? 4) !== (b[i] ?? 4)) return (a[i] ?? 4) > (b[i] ?? 4);
    return false;
};

export class Routes {
    #list = [];

    /** Adds a route; returns its removal, which takes equal routes with it, as the original's. */
    add(path, handler) {
        this.#list.push({ path, pattern: segments(path), handler });
        return () => {
            this.#list = this.#list.filter((route) => route.path !== path);
        };
    }

    find(url) {
        const parts = segments(url);
        let best;
        for (const route of parts ? this.#list : []) {
            const found = match(route.pattern, parts);
            if (found && (!best || better(found[0], best.rank)))
                best = { rank: found[0], params: found[1], ...route };
        }
        return best && { handler: best.handler, params: best.params, path: best.path };
    }
}
