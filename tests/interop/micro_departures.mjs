// micro_departures.mjs - where znlrun does not do what the recordings show, on purpose: the
// weaknesses of the originals (spec, section 24) that it does not repeat. Keyed by
// "[version ]scenario role"; the parts replace those of the scene, `edit` changes the recording,
// `allow` names frames beyond it, `leave` says why a role is not tested.
//
// SPDX-License-Identifier: MIT

const isAbort = (json) => json.mode === 2;
const response = (copy, id) => copy.frames.find(({ json }) => json?.mode === 1 && json.id === id);

export const DEPARTURES = {
    // A connection that comes anew under its key is found (24, 2).
    "1.0.5 reregister-same-key registry": {
        edit(copy) {
            response(copy, 0).json.data.data = { host: "192.0.2.1", port: 12345 };
        },
    },
    // Results with a member `e` are results.
    "1.0.5 e-field provider": {
        edit(copy) {
            response(copy, 0).json.data = {
                status: 200,
                data: { e: { message: "not an error" } },
            };
        },
    },
    // The intermediate routes are served to whoever knows them; not every variable may be read.
    "2.0.15 env-routes-absent registry": {
        edit(copy) {
            response(copy, 0).json.data = { status: 200, data: [null] };
            response(copy, 1).json.data = {
                status: 200,
                data: [{ namespace: "my-svc", value: null }],
            };
        },
    },
    // Ids of the two directions never meet (24, 1): the answer arrives.
    "1.0.5 id-collision provider": {
        edit(copy) {
            copy.frames = copy.frames.filter(({ json }) => !isAbort(json));
            copy.outcome.providerRequest0 = { result: { waited: 300 } };
        },
    },
    // An abort is sent on a timeout and for a stream that is dropped (24, 8).
    "2.0.15 call-timeout consumer": { allow: isAbort },
    "2.0.15 call-timeout-retry consumer": { allow: isAbort },
    "2.0.15 stream-destroy consumer": { allow: isAbort },
    // Null ends a Node consumer's stream: it is refused as a chunk (spec, section 6).
    "2.0.15 stream-values provider": {
        edit(copy) {
            const at = copy.frames.findIndex(({ json }) => json.data.payload === null);
            copy.frames.splice(at, 1);
            for (const { json } of copy.frames.slice(at)) json.data.seq--;
        },
    },
    "2.0.15 call-abort-retry consumer": {
        leave: "a task that was cancelled makes no second attempt",
    },
    "namespace-non-ascii provider": {
        leave: "such a namespace is refused when the application is made",
    },
};
