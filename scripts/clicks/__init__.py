"""Click models over collections of tables: data, DLRM and DCN v2, training."""
