"""The numbers of the NBD protocol, as its public description gives them, and our own limits.

Owns nothing. The compiled loop takes its copies from here, so each number stands once.
"""

from __future__ import annotations

# -- handshake ------------------------------------------------------------------------------------
MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

FLAG_FIXED_NEWSTYLE = 1 << 0  # of the server, and with the same numbers of the client
FLAG_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR_UNSUP = (1 << 31) + 1
REP_ERR_POLICY = (1 << 31) + 2
REP_ERR_INVALID = (1 << 31) + 3
REP_ERR_UNKNOWN = (1 << 31) + 6
REP_ERR_SHUTDOWN = (1 << 31) + 7
REP_ERR_TOO_BIG = (1 << 31) + 9

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

# -- what an export can do ------------------------------------------------------------------------
HAS_FLAGS = 1 << 0
READ_ONLY = 1 << 1
SEND_FLUSH = 1 << 2
SEND_FUA = 1 << 3
SEND_TRIM = 1 << 5
SEND_WRITE_ZEROES = 1 << 6
SEND_DF = 1 << 7
CAN_MULTI_CONN = 1 << 8
SEND_CACHE = 1 << 10
SEND_FAST_ZERO = 1 << 11

# -- requests and replies -------------------------------------------------------------------------
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
COMMANDS = ("read", "write", "disconnect", "flush", "trim", "cache", "write_zeroes", "block_status")

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4

REPLY_FLAG_DONE = 1 << 0
REPLY_NONE = 0
REPLY_OFFSET_DATA = 1
REPLY_OFFSET_HOLE = 2
REPLY_BLOCK_STATUS = 5
REPLY_ERROR = (1 << 15) + 1
REPLY_ERROR_OFFSET = (1 << 15) + 2

STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1
CONTEXT_ALLOCATION = "base:allocation"
CONTEXT_ALLOCATION_ID = 1

EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
ENOTSUP = 95
ESHUTDOWN = 108

# -- our limits -----------------------------------------------------------------------------------
BLOCK_BYTES_MIN = 1
PAYLOAD_BYTES_MAX = 32 << 20  # of one READ or WRITE
DRAIN_BYTES_MAX = 64 << 20  # a longer payload than this is not read to its end: the connection ends
NAME_BYTES_MAX = 4096
OPTION_BYTES_MAX = 64 << 10  # longer options are refused,
OPTION_DRAIN_MAX = 1 << 20  # and the connection with them from here on
OPTIONS_MAX = 1024  # in one handshake
QUERIES_MAX = 256  # of one option
SIZE_BYTES_MAX = 1 << 44
