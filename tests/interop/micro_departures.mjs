// micro_departures.mjs - where znlrun does not do what the recordings show, on purpose: the
// weaknesses of the originals (spec, section 24) that it does not repeat. Keyed by
// "[version ]scenario role"; the parts replace those of the scene, `edit` changes the recording,
// `allow` names frames beyond it, `leave` says why a role is not tested.
//
// SPDX-License-Identifier: MIT

export const DEPARTURES = {};
