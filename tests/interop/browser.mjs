// browser.mjs - a headless Chromium driven over WebDriver (W3C), with as many windows as a test likes.
//
//   const browser = await startBrowser();
//   const page = await browser.open("http://127.0.0.1:8080/");
//   await page.type("#name", "Ada"); await page.click("#enter"); await page.text("#room");
//   await browser.close();
//
// SPDX-License-Identifier: MIT
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const START_MS = 60000;
const ELEMENT = "element-6066-11e4-a52e-4f735466cecf"; // WebDriver, section 12
const ARGUMENTS = [
    "--headless=new",
    "--no-sandbox", // tests run as root, too
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--hide-scrollbars",
    "--window-size=1000,680",
];

/** One window. Commands of all windows of a browser wait for each other. */
class Page {
    constructor(browser, handle) {
        this.browser = browser;
        this.handle = handle;
    }

    /** Runs a function in the page and returns what it returns. */
    run(fn, ...args) {
        return this.browser.inWindow(this.handle, () =>
            this.browser.command("POST", "/execute/sync", {
                script: `return (${fn}).apply(null, arguments);`,
                args,
            }),
        );
    }

    async #element(selector) {
        const found = await this.browser.command("POST", "/element", {
            using: "css selector",
            value: selector,
        });
        return found[ELEMENT];
    }

    type(selector, text) {
        return this.browser.inWindow(this.handle, async () => {
            const element = await this.#element(selector);
            return this.browser.command("POST", `/element/${element}/value`, { text });
        });
    }

    click(selector) {
        return this.browser.inWindow(this.handle, async () => {
            const element = await this.#element(selector);
            return this.browser.command("POST", `/element/${element}/click`, {});
        });
    }

    /** A PNG of what the window shows. */
    screenshot() {
        return this.browser.inWindow(this.handle, async () =>
            Buffer.from(await this.browser.command("GET", "/screenshot"), "base64"),
        );
    }
}

class Browser {
    #turn = Promise.resolve();
    #opened = 0;

    constructor(process, folder, base) {
        this.process = process;
        this.folder = folder;
        this.base = base;
    }

    async call(method, path, body) {
        const response = await fetch(`${this.base}${path}`, {
            method,
            headers: { "content-type": "application/json" },
            body: body && JSON.stringify(body),
        });
        const { value } = await response.json();
        if (!response.ok) throw new Error(`${method} ${path}: ${value?.error}: ${value?.message}`);
        return value;
    }

    command(method, path, body) {
        return this.call(method, `/session/${this.session}${path}`, body);
    }

    /** Runs `fn` while that window is the current one. */
    inWindow(handle, fn) {
        const run = async () => {
            if (handle) await this.command("POST", "/window", { handle });
            return fn();
        };
        const result = this.#turn.then(run);
        this.#turn = result.catch(() => {});
        return result;
    }

    async begin() {
        const made = await this.call("POST", "/session", {
            capabilities: {
                alwaysMatch: {
                    "goog:chromeOptions": {
                        binary: process.env.CHROMIUM,
                        args: [...ARGUMENTS, `--user-data-dir=${this.folder}`],
                    },
                },
            },
        });
        this.session = made.sessionId;
    }

    /** A new window with that page in it. */
    async open(url) {
        this.#opened++;
        const handle = await this.inWindow(undefined, async () => {
            if (this.#opened === 1) return this.command("GET", "/window");
            return (await this.command("POST", "/window/new", { type: "window" })).handle;
        });
        await this.inWindow(handle, () => this.command("POST", "/url", { url }));
        return new Page(this, handle);
    }

    async close() {
        if (this.session) await this.call("DELETE", `/session/${this.session}`).catch(() => {});
        // The driver leads a group of its own: what it started ends with it.
        try {
            process.kill(-this.process.pid, "SIGKILL");
        } catch {
            // It has ended by itself.
        }
        await this.ended;
        rmSync(this.folder, { recursive: true, force: true, maxRetries: 10 });
    }
}

/** Starts the driver and the browser. CHROMEDRIVER and CHROMIUM name others than those of the system. */
export async function startBrowser() {
    const folder = mkdtempSync(join(tmpdir(), "znl-browser-"));
    const child = spawn(process.env.CHROMEDRIVER ?? "chromedriver", ["--port=0"], {
        stdio: ["ignore", "pipe", "inherit"],
        detached: true,
    });
    const browser = new Browser(child, folder);
    browser.ended = new Promise((resolve) => {
        child.on("error", resolve);
        child.on("close", resolve);
    });
    try {
        const port = await new Promise((resolve, reject) => {
            const timer = setTimeout(() => reject(new Error("chromedriver does not answer")), START_MS);
            child.on("error", reject);
            child.on("close", (code) => reject(new Error(`chromedriver ended: ${code}`)));
            createInterface({ input: child.stdout }).on("line", (line) => {
                const found = line.match(/started successfully on port (\d+)/);
                if (!found) return;
                clearTimeout(timer);
                resolve(found[1]);
            });
        });
        browser.base = `http://127.0.0.1:${port}`;
        await browser.begin();
        return browser;
    } catch (error) {
        await browser.close();
        throw error;
    }
}
