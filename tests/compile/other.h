/* What user_b.c and static_b.c have for the other file of the program. */
#ifndef OTHER_H
#define OTHER_H
#ifdef __cplusplus
extern "C" {
#endif
char *other_copy(const char *text); /* give it back to other_free */
void other_free(char *text);
#ifdef __cplusplus
}
#endif
#endif
