/* Which instruction sets this build holds and this machine runs. */
#ifndef HEED_CORE_ISA_H
#define HEED_CORE_ISA_H

#include "core/message.h"
#include "kernels/kernels.h"

/* The kernel table of an ISA (never AUTO) that is in this build and runs on this machine, else NULL. */
const heed_kernels *heed_isa_kernels(heed_isa isa);

/* Turns AUTO into the ISA that HEED_ISA names, or the best one; any other into itself. HEED_ERROR_ISA where it is
 * unknown, not built in, or not on this machine. */
heed_status heed_isa_choose(heed_isa *isa, heed_message *message);

#endif
