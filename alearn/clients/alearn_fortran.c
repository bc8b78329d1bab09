/* What alearn_client.f90 calls: any Fortran value by its descriptor, handed to the functions of alearn.h. */
#include "alearn.h"

#include <ISO_Fortran_binding.h>

enum { MAX_FIELDS = 16 };

typedef struct {
    alearn_run *run;
    int count;
    alearn_field fields[MAX_FIELDS];
    char names[MAX_FIELDS][256], units[MAX_FIELDS][64];
    void *copies[MAX_FIELDS];
} handle;

void *alearn_f_connect(int64_t steps_total, int64_t *acknowledged) {
    handle *h = (handle *)calloc(1, sizeof *h);
    if (h) h->run = alearn_connect();
    if (!h || !h->run) {
        fprintf(stderr, "alearn: There is no memory left to open the stream.\n");
        free(h);
        return NULL;
    }
    h->run->steps_total = steps_total > 0 ? (uint64_t)steps_total : 0;
    *acknowledged = (int64_t)h->run->acknowledged;
    return h;
}

double alearn_f_parameter(handle *h, const char *name, double otherwise) { return h ? alearn_parameter(h->run, name, otherwise) : NAN; }

static size_t size_of(alearn_dtype dtype) { return alearn__dtypes[dtype].bytes; }

static int is_logical(const CFI_cdesc_t *v) {
#ifdef CFI_type_Logical /* gfortran knows the kinds of logical that C does not, the default one among them */
    if (v->type % 256 == CFI_type_Logical) return 1;
#endif
    return v->type == CFI_type_Bool;
}

/* Copy a section of any strides, in the order of its elements; a logical becomes one byte, 0 or 1. */
static void gather(unsigned char *to, const char *from, const CFI_cdesc_t *v, int dim, size_t bytes, int logical) {
    CFI_index_t i;
    if (dim < 0) {
        if (logical) {
            size_t b;
            unsigned char any = 0;
            for (b = 0; b < v->elem_len; b++) any |= (unsigned char)from[b];
            *to = any != 0;
        } else memcpy(to, from, bytes);
        return;
    }
    {
        size_t inner = bytes;
        int d;
        for (d = 0; d < dim; d++) inner *= (size_t)v->dim[d].extent;
        for (i = 0; i < v->dim[dim].extent; i++) gather(to + (size_t)i * inner, from + i * v->dim[dim].sm, v, dim - 1, bytes, logical);
    }
}

/* Add a value to the step that is being put. Its shape is told the other way round, as C and Python see the same bytes. */
void alearn_f_field(handle *h, const char *name, const CFI_cdesc_t *value) {
    alearn_field *f;
    const char *unit;
    size_t items = 1;
    int d, logical = is_logical(value), plain = !logical || value->elem_len == 1;
    if (!h || h->run->error) return;
    if (h->count == MAX_FIELDS) {
        alearn__fail(h->run, "The step carries more than %d values.", MAX_FIELDS);
        return;
    }
    f = h->fields + h->count;
    unit = strchr(name, '[');
    snprintf(h->names[h->count], sizeof h->names[0], "%.*s", (int)(unit ? unit - name : (long)strlen(name)), name);
    for (d = (int)strlen(h->names[h->count]); d > 0 && h->names[h->count][d - 1] == ' '; d--) h->names[h->count][d - 1] = 0;
    snprintf(h->units[h->count], sizeof h->units[0], "%.*s", unit ? (int)strcspn(unit + 1, "]") : 0, unit ? unit + 1 : "");
    f->name = h->names[h->count];
    f->unit = h->units[h->count];
    f->ndim = value->rank;
    if (logical) f->dtype = ALEARN_BOOL;
    else if (value->type == CFI_type_float) f->dtype = ALEARN_FLOAT32;
    else if (value->type == CFI_type_double) f->dtype = ALEARN_FLOAT64;
    else if (value->type == CFI_type_int8_t) f->dtype = ALEARN_INT8;
    else if (value->type == CFI_type_int16_t) f->dtype = ALEARN_INT16;
    else if (value->type == CFI_type_int32_t) f->dtype = ALEARN_INT32;
    else if (value->type == CFI_type_int64_t) f->dtype = ALEARN_INT64;
    else {
        alearn__fail(h->run, "The value '%s' is of a Fortran type with %lu bytes that cannot be sent; real(4), real(8), "
                     "integer(1), (2), (4), (8) and logical can.", f->name, (unsigned long)value->elem_len);
        return;
    }
    for (d = 0; d < value->rank; d++) {
        CFI_index_t stride = (CFI_index_t)(items * value->elem_len);
        f->shape[value->rank - 1 - d] = (int64_t)value->dim[d].extent;
        plain = plain && (value->dim[d].sm == stride || value->dim[d].extent <= 1);
        items *= (size_t)value->dim[d].extent;
    }
    f->data = value->base_addr;
    if (!plain && items) {
        f->data = h->copies[h->count] = malloc(items * size_of(f->dtype));
        if (!f->data) {
            alearn__fail(h->run, "There is no memory left for the value '%s'.", f->name);
            return;
        }
        gather((unsigned char *)h->copies[h->count], (const char *)value->base_addr, value, value->rank - 1, size_of(f->dtype), logical);
    }
    h->count++;
}

int alearn_f_put(handle *h, double t, int64_t *step, int64_t *acknowledged) {
    int result;
    if (!h) return ALEARN_ERROR;
    if (*step >= 0) h->run->step = (uint64_t)*step;
    result = alearn_put(h->run, t, h->fields, h->count);
    *step = (int64_t)h->run->step;
    *acknowledged = (int64_t)h->run->acknowledged;
    for (; h->count; h->count--) {
        free(h->copies[h->count - 1]);
        h->copies[h->count - 1] = NULL;
    }
    return result;
}

int alearn_f_stopped(handle *h) { return h ? alearn_stopped(h->run) : 0; }

double alearn_f_steered(handle *h, const char *name, double otherwise) { return h ? alearn_steered(h->run, name, otherwise) : otherwise; }

int alearn_f_close(handle *h, const char *failure) {
    int result = h ? alearn_close(h->run, *failure ? failure : NULL) : ALEARN_ERROR;
    free(h);
    return result;
}
