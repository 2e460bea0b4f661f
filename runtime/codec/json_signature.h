/* json_signature.h - the text by which a registry judges two payloads equal (micro spec, section 10;
 * vectors micro/signatures.json): member order does not matter, array order does.
 *
 *     undefined   null   boolean:true   number:1.5   string:"a"   array:[number:1,null]
 *     object:{"a":number:1,"b":array:[]}
 *
 * As JavaScript makes it of the parsed value, but for whole numbers past 2^53: their digits are kept, so
 * that ids which differ stay different.
 *
 * Layer: codec. Pure; nothing is allocated but buffers. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_JSON_SIGNATURE_H
#define ZNL_CODEC_JSON_SIGNATURE_H

#include "base/bytes.h"

/* Appends the signature of a JSON text; {NULL, 0} is "undefined". 0; ZNL_E_PROTO, ZNL_E_LIMIT (nested
 * deeper than max_depth), ZNL_E_NOMEM: `out` is as before. */
int znl_json_signature(znl_frame text, unsigned max_depth, znl_buffer *out);

#endif
