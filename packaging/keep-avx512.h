/* Included before each file of aws-lc: see binary.sh. Its small form leaves out two things, and this takes one of them back. */
#include <openssl/target.h>
#undef MY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX
