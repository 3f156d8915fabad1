/* Included before each file of aws-lc: see binary.sh. Its small form leaves out two things, and this takes one of them back. Where the build only asks the compiler
   what it can do, there is no such header. */
#if __has_include(<openssl/target.h>)
#include <openssl/target.h>
#undef MY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX
#endif
