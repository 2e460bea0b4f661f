/* certificates.h - an authority and certificates of its own, made when a test begins.
 *
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_SUPPORT_CERTIFICATES_H
#define ZNL_TESTS_SUPPORT_CERTIFICATES_H

typedef struct certificates {
    char folder[64];
    char authority[96];  /* PEM files from here on */
    char server[96];     /* for "localhost", 127.0.0.1 and ::1 */
    char server_key[96]; /* of `server` */
    char client[96];
    char client_key[96];
    char stranger[96]; /* for the same names, vouched for by itself */
    char stranger_key[96];
    char locked_key[96]; /* of `server`, with a password */
} certificates;

/* Fails the test when they cannot be made. */
void certificates_make(certificates *made);
void certificates_remove(const certificates *made);

#endif
