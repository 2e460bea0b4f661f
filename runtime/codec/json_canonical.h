/* json_canonical.h - JSON text as JSON.stringify would write what JSON.parse makes of it: subscription keys
 * are compared as text (codec/WIRE.md, "Subscription keys"; spec cluster-client, section 5).
 *
 * Layer: codec. Pure. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_JSON_CANONICAL_H
#define ZNL_CODEC_JSON_CANONICAL_H

#include "base/bytes.h"

/* Appends the canonical form of `text` to `out`: no white space, names that are array indexes first in numeric
 * order, then the others in the order of their first appearance, of repeated names the last value, numbers and
 * strings as JavaScript writes them. 0; ZNL_E_PROTO (no JSON), ZNL_E_LIMIT (deeper than max_depth), ZNL_E_NOMEM:
 * `out` is as before. Time is in proportion to n log n of the size of the text. */
int znl_json_canonical(znl_frame text, unsigned max_depth, znl_buffer *out);

#endif
